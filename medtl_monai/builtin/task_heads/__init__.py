"""The built-in heads: one module a head, and the parts they share."""
