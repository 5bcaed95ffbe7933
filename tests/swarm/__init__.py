"""What real swarms do; a package, so that they end with its last test."""
