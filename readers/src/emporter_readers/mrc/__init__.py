"""MRC2014 and its dialects (CCP4 maps, IMOD, FEI): volumes, stacks of images, stacks of volumes."""
