"""What a review finds, and what it looks at."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ..checkpoint import CheckpointWeights, open_weights
from ..checkpoint.files import CheckpointSource
from ..checkpoint.processors import SavedProcessors
from ..configuration_pi0_ttnn import PI0TTNNConfig

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """One finding about a checkpoint, in a sentence for its user."""

    severity: Severity
    """`error`: it cannot run, or what it would do is wrong. `warning`: it may be. `note`: what one should know of it."""
    subject: str
    """What it is about, in a word or two: `statistics`, `tokenizer`, `cameras`, ..."""
    message: str
    """Where, expected, got."""
    fix: str = ""
    """What to do; a note may have none."""

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}{'; ' if self.fix else ''}{self.fix}."


@dataclass(frozen=True)
class Subject:
    """What the checks look at: a checkpoint's config and its small files. Nothing of it is changed."""

    config: PI0TTNNConfig
    source: CheckpointSource
    processors: SavedProcessors

    @cached_property
    def weights(self) -> CheckpointWeights:
        """The tensors; only their headers are to be read. Raises as `open_weights` does."""
        return open_weights(self.source, self.config.base_model)
