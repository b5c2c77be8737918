"""The assistant as a local server in OpenAI's format: requests in, answers out. `listen` opens it on an address."""
