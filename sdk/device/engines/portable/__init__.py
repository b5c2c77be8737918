"""A bundle in, an engine out that runs wherever onnxruntime has a wheel: no compiler, no accelerator."""
