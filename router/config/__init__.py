"""The YAML form of the configuration: read, written and compared; nothing is applied here."""
