"""Records that runs leave on disk, validated when they are read."""
