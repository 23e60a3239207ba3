"""Pixel codecs: run in the child of `router.sandbox` alone. Nothing else may import them."""
