"""A student in, a checked Core ML package out; a package in, its tokens out on any machine."""
