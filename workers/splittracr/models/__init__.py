"""Networks: a registry, and one file for each family that builds them."""
