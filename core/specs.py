"""Specs: each holds exactly what decides one product, and its digest is the product's cache key."""

from typing import Any, ClassVar, Self

from image_longitudinal.core.config import Config, Section
from image_longitudinal.core.digest import digest_of


class Spec(Section):
    """Base of all specs: frozen, JSON only. A spec holds no workspace, path or number of workers, and no device, except
    the arithmetic of a training.

    ``product`` names the result; raise ``code_version`` whenever the same spec would give another result.
    """

    product: ClassVar[str]
    code_version: ClassVar[int]
    added: ClassVar[frozenset[str]] = frozenset()  # later fields, which count unless they are at their default

    @classmethod
    def from_config(cls, config: Config, **others: Any) -> Self:
        """The spec with ``others``, and with the configuration's values of all other fields of the same name."""
        return cls(**{name: value for name, value in config if name in cls.model_fields} | others)

    @property
    def digest(self) -> str:
        """64 hex digits that change with the product's name, the code version or any field.

        A spec in a field counts by its own digest, so that its code version matters too.
        """
        usual = {name for name in self.added if getattr(self, name) == type(self).model_fields[name].default}
        fields = self.model_dump(mode="json", exclude=usual)
        fields |= {name: part.digest for name, part in self if isinstance(part, Spec)}
        return digest_of(self.product, self.code_version, fields)
