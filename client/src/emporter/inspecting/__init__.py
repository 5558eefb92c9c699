"""What a file, a folder or a URL holds, without a stack: headers only, by ranges."""
