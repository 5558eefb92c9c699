"""HDF5: one dataset of a file, by its path. h5py reads the structure, never the values: these are read by byte ranges."""
