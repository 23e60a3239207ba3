"""`/api/v1/`: the product for programs, as JSON. Tokens only; its document is `openapi.json`.

Each module holds the operations on one noun: schemas, then functions that ask services. No address
and no log holds patient data: what selects patients goes into a body.
"""
