"""On the signing machines: bundles in, signed metadata and files for any static server out."""
