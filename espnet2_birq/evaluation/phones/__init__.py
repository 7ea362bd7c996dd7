"""How much of the phones the layers of an encoder hold."""
