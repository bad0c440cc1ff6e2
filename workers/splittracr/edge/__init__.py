"""The edge worker: pictures in, heads, the link, records out."""
