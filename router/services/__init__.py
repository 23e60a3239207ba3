"""Verbs: transactions and audit. Entry points pass who and from where as an ``Actor``."""
