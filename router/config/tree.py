"""YAML text as a tree of nodes that know their line and path.

A strict, small YAML: one document of mappings with text keys, lists and scalars. Anchors, aliases,
tags and keys given twice are refused. Only `true`, `false`, `null`, and numbers that would be
printed with the same digits are more than text: `on`, `yes`, `2024-01-01`, `0104` and `1e3` stay
text. It knows nothing of what a configuration may hold.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import yaml
from yaml import events

from router.config.findings import ConfigError, Finding

MAX_BYTES = 5 << 20
MAX_DEPTH = 60

type Scalar = str | int | float | bool | None
type Data = Scalar | list[Data] | dict[str, Data]
