"""TIFF in all common dress: multipage, ImageJ, OME, strips and tiles, one file or many."""
