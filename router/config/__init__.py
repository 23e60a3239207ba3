"""The YAML form of the configuration: reading, writing and comparing it; nothing is applied here."""
