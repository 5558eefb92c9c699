"""Arrays that lie in many objects, one per chunk or shard: Zarr v2 and v3, N5, neuroglancer precomputed."""
