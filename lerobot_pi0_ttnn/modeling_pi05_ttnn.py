"""The policy of pi0.5. LeRobot finds this module by its name."""

from .configuration_pi05_ttnn import PI05TTNNConfig
from .modeling_pi0_ttnn import PI0TTNNPolicy
from .observation import STATE


class PI05TTNNPolicy(PI0TTNNPolicy):
    """pi0.5 as a LeRobot policy, for inference: as `PI0TTNNPolicy`, with the state in the prompt."""

    config_class = PI05TTNNConfig
    name = "pi05_ttnn"

    def _prompt_lengths(self) -> tuple[int, int]:
        """Returns how many tokens prompts have, at least and at most: of a task and this robot's state.

        PaliGemma's tokenizer makes 11 tokens of the words around them, and 2 to 4 of each number of the state. What is longer
        is warmed up when it is first met.
        """
        numbers = self.config.input_features[STATE].shape[0]
        least, most = 12 + 2 * numbers, 32 + 4 * numbers
        return tuple(min(length, self.config.tokenizer_max_length) for length in (least, most))
