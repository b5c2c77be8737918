"""Oblivious HTTP (RFC 9458): a question goes by a relay that cannot read it to a gateway that cannot tell who asks."""
