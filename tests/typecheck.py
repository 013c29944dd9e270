"""The checker of types in the test run: by PEP 484, where a whole number will do for a float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
