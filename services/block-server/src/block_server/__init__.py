"""OME-Zarr to blocks over HTTP. Reads the store only; knows no bus."""
