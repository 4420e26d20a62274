"""Checkpoints that people have and that something is wrong with: each a change to a good one, and what is to be said of it."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoints import edit_json

PIPELINES = ("policy_preprocessor.json", "policy_postprocessor.json")


@dataclass(frozen=True)
class Case:
    """One way to break a checkpoint."""

    severity: str
    words: str
    """Of the message."""
    change: Callable[[Path], None]


def copy_of(checkpoint: Path, target: Path) -> Path:
    """A copy whose weights are the same file."""
    return shutil.copytree(
        checkpoint, target, copy_function=lambda a, b: Path(b).hardlink_to(a) if is_big(a) else shutil.copy(a, b)
    )


def is_big(path: str) -> bool:
    return path.endswith("model.safetensors")


def edit_step(folder: Path, name: str, **settings) -> None:
    """Changes the settings of a step, wherever it is; one that is None is removed."""
    for pipeline in (folder / name for name in PIPELINES):
        saved = json.loads(pipeline.read_text())
        for step in saved["steps"]:
            if step["registry_name"] == name:
                step["config"] = {k: v for k, v in (step["config"] | settings).items() if v is not None}
        pipeline.write_text(json.dumps(saved))


def without_step(folder: Path, name: str) -> None:
    for pipeline in (folder / name for name in PIPELINES):
        saved = json.loads(pipeline.read_text())
        saved["steps"] = [step for step in saved["steps"] if step["registry_name"] != name]
        pipeline.write_text(json.dumps(saved))


def edit_stats(folder: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], side: str = "*") -> None:
    """Rewrites the statistics of the preprocessor (`side` is `pre`), the postprocessor (`post`) or both."""
    for file in folder.glob(f"policy_{side}processor_*.safetensors"):
        save_file({name: value.contiguous() for name, value in change(load_file(file)).items()}, file)


def with_stats(side: str = "*", **values: object) -> Callable[[Path], None]:
    """Sets statistics: `state_std=[...]`, `action_q01=[...]`; None removes one, a number is set for every joint."""

    def change(stats: dict[str, Tensor]) -> dict[str, Tensor]:
        for name, value in values.items():
            feature, _, statistic = name.partition("_")
            key = f"{'observation.state' if feature == 'state' else feature}.{statistic}"
            if value is None:
                stats.pop(key, None)
            else:
                like = stats[f"{key.rpartition('.')[0]}.mean"]
                stats[key] = (
                    torch.tensor(value, dtype=like.dtype).expand_as(like)
                    if isinstance(value, float)
                    else torch.tensor(value)
                )
        return stats

    return lambda folder: edit_stats(folder, change, side)


def set_widths(folder: Path, **widths: int) -> None:
    """Of how many values the config says that `state` or `action` is."""
    config = json.loads((folder / "config.json").read_text())
    if "state" in widths:
        config["input_features"]["observation.state"]["shape"] = [widths["state"]]
    if "action" in widths:
        config["output_features"]["action"]["shape"] = [widths["action"]]
    edit_json(folder / "config.json", **config)


def wide(*widths: int, **features: int) -> Callable[[Path], None]:
    """Statistics so wide, and features of the config so wide."""
    state, action = widths

    def change(folder: Path) -> None:
        edit_stats(
            folder, lambda stats: {k: v.new_ones(state if "state" in k else action) * 2.0 for k, v in stats.items()}
        )
        set_widths(folder, **features)

    return change


def renamed(names: dict[str, str]) -> Callable[[Path], None]:
    def change(stats: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            names.get(k.rpartition(".")[0], k.rpartition(".")[0]) + "." + k.rpartition(".")[2]: v
            for k, v in stats.items()
        }

    return lambda folder: edit_stats(folder, change)


def without_stats_file(side: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for file in folder.glob(f"policy_{side}processor_*.safetensors"):
            file.unlink()

    return change


def without_state_file(*pipelines: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in pipelines:
            file = folder / name
            file.write_text(file.read_text().replace('"state_file"', '"no_state_file"'))

    return change


def of_lerobot_0_3(folder: Path, *, keep_processors: bool = False, scale: float = 1.0) -> None:
    """Moves the statistics into the weights."""
    stats = load_file(next(folder.glob("policy_postprocessor_*.safetensors")))
    weights = load_file(folder / "model.safetensors")
    for key, value in stats.items():
        feature, _, statistic = key.rpartition(".")
        side = "unnormalize_outputs" if feature == "action" else "normalize_inputs"
        weights[f"{side}.buffer_{feature.replace('.', '_')}.{statistic}"] = value * scale
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors")
    if not keep_processors:
        for file in folder.glob("policy_*"):
            file.unlink()


def modes(folder: Path, mode: str, *, config: bool = True, pre: bool = True, post: bool = True) -> None:
    norm_map = {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}
    if config:
        edit_json(folder / "config.json", normalization_mapping=norm_map)
    if pre:
        edit_step(folder, "normalizer_processor", norm_map=norm_map)
    if post:
        edit_step(folder, "unnormalizer_processor", norm_map=norm_map)


def all_of(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


NAN, INF = float("nan"), float("inf")
PICTURES = {
    f"observation.images.front.{name}": torch.full((3, 1, 1), value)
    for name, value in {"mean": 0.45, "std": 0.22}.items()
}
QUANTILES = with_stats(state_q01=-2.0, state_q99=2.0, action_q01=-2.0, action_q99=2.0)
STATISTICS = {
    # 6 and 6 wide, features of 6 and 6: JOINTS of `tests.robots`
    "base-model": Case("warning", "the checkpoint has no statistics", without_state_file(*PIPELINES)),
    "state-32": Case(
        "warning", "observation.state: the config says 32 values, the statistics are of 6", wide(6, 6, state=32)
    ),
    "action-32": Case("warning", "action: the config says 32 values, the statistics are of 6", wide(6, 6, action=32)),
    "state-of-another": Case(
        "warning", "observation.state: the config says 14 values, the statistics are of 6", wide(6, 6, state=14)
    ),
    "action-9-of-7": Case(
        "error", "action: the policy is to give 7 values, the statistics are of 9", wide(6, 9, state=14, action=7)
    ),
    "state-1": Case("error", "observation.state: the config says 6 values, the statistics are of 1", wide(1, 6)),
    "state-40": Case("error", "observation.state: the statistics are of 40 values, and pi0 takes 32", wide(40, 6)),
    "shapes": Case("error", "action: mean and std are of 6 and 5 values", with_stats(action_std=[1.0] * 5)),
    "empty": Case("error", "action: mean and std are of 0 and 0 values", wide(6, 0)),
    "no-norm-map": Case(
        "error",
        "observation.state: policy_preprocessor.json does not say how",
        lambda f: edit_step(f, "normalizer_processor", norm_map=None),
    ),
    "not-lerobots": Case(
        "error", "not a LeRobot processor", lambda f: edit_step(f, "rename_observations_processor", rename_map=["top"])
    ),
    "lerobot-0.3": Case("error", "its statistics are among the weights", of_lerobot_0_3),
    "lerobot-0.3-other": Case(
        "warning",
        "other statistics among the weights",
        lambda folder: of_lerobot_0_3(folder, keep_processors=True, scale=2.0),
    ),
    "placeholder": Case("warning", "observation.state: mean 0 and std 1", with_stats(state_mean=0.0, state_std=1.0)),
    "placeholder-action": Case("warning", "action: mean 0 and std 1", with_stats(action_mean=0.0, action_std=1.0)),
    "keys": Case(
        "error",
        "observation.state: no statistics, but of actions, observation.states",
        renamed({"observation.state": "observation.states", "action": "actions"}),
    ),
    "keys-so100": Case(
        "error",
        "action: no statistics, but of observation.state, so100.buffer.action",
        renamed({"action": "so100.buffer.action"}),
    ),
    "post-file": Case("error", "which is absent", without_stats_file("post")),
    "pre-file": Case("error", "which is absent", without_stats_file("pre")),
    "post-no-file": Case(
        "error", "action: no statistics in policy_postprocessor.json", without_state_file(PIPELINES[1])
    ),
    "pre-no-file": Case(
        "error", "observation.state: no statistics in policy_preprocessor.json", without_state_file(PIPELINES[0])
    ),
    "no-post": Case(
        "error", "policy_preprocessor.json but no policy_postprocessor.json", lambda f: (f / PIPELINES[1]).unlink()
    ),
    "no-pre": Case(
        "error", "policy_postprocessor.json but no policy_preprocessor.json", lambda f: (f / PIPELINES[0]).unlink()
    ),
    "no-unnormalizer": Case(
        "error", "no step undoes the normalisation", lambda f: without_step(f, "unnormalizer_processor")
    ),
    "no-normalizer": Case("error", "no step normalises", lambda f: without_step(f, "normalizer_processor")),
    "nan": Case(
        "error", "observation.state: mean is not finite for value 2", with_stats(state_mean=[0, 0, NAN, 0, 0, 0.0])
    ),
    "inf": Case("error", "action: mean, std are not finite", with_stats(action_mean=INF, action_std=INF)),
    "negative": Case("error", "action: std is negative for value 0", with_stats(action_std=[-1, 1, 1, 1, 1, 1.0])),
    "zero-state": Case(
        "warning", "observation.state: std is 0, or next to it, for value 5", with_stats(state_std=[1, 1, 1, 1, 1, 0.0])
    ),
    "zero-everywhere": Case("error", "action: std is 0 everywhere", with_stats(action_std=0.0)),
    "huge": Case("warning", "action: std reaches 1e+09", with_stats(action_std=1e9)),
    "beyond": Case(
        "error",
        "action: mean is not between min and max for value 0",
        with_stats(action_min=0.0, action_max=[1, 99, 99, 99, 99, 99.0], action_mean=5.0),
    ),
    "spread": Case(
        "error",
        "action: std is more than max - min",
        with_stats(action_min=0.0, action_max=2.0, action_mean=1.0, action_std=5.0),
    ),
    "no-quantiles": Case("error", "action: QUANTILES needs q01 and q99", lambda f: modes(f, "QUANTILES")),
    "no-min": Case("error", "action: MIN_MAX needs min and max", lambda f: modes(f, "MIN_MAX")),
    "no-std": Case("error", "action: MEAN_STD needs mean and std", with_stats(action_std=None)),
    "crossed": Case(
        "error",
        "action: q01 is above q99",
        all_of(QUANTILES, with_stats(action_q01=3.0), lambda f: modes(f, "QUANTILES")),
    ),
    "same-quantiles": Case(
        "error",
        "action: q01 equals q99 everywhere",
        all_of(QUANTILES, with_stats(action_q01=2.0), lambda f: modes(f, "QUANTILES")),
    ),
    "two-sides": Case("warning", "action: the preprocessor's mean differs", with_stats("pre", action_mean=7.0)),
    "modes": Case(
        "error",
        "action: policy_preprocessor.json normalises by MEAN_STD, policy_postprocessor.json undoes IDENTITY",
        lambda f: modes(f, "IDENTITY", config=False, pre=False),
    ),
    "mode-post": Case(
        "warning",
        "action: the config says MEAN_STD, policy_postprocessor.json IDENTITY, which is what happens",
        lambda f: modes(f, "IDENTITY", config=False),
    ),
    "written": Case(
        "error",
        "action: std is 0 everywhere",
        lambda f: edit_step(f, "unnormalizer_processor", stats={"action": {"mean": [0.0] * 6, "std": [0.0] * 6}}),
    ),
    "nearly-zero": Case("warning", "next to it, for value 0", with_stats(state_std=[1e-8, 1, 1, 1, 1, 1.0])),
    "placeholder-quantiles": Case(
        "warning",
        "observation.state: q01 -1 and q99 1 everywhere",
        all_of(QUANTILES, with_stats(state_q01=-1.0, state_q99=1.0), lambda f: modes(f, "QUANTILES")),
    ),
    "lerobot-0.3-without": Case(
        "warning", "there are no saved processors", lambda folder: of_lerobot_0_3(folder, scale=INF)
    ),
    "mode-config": Case(
        "warning",
        "observation.state: the config says MEAN_STD, policy_preprocessor.json QUANTILES",
        all_of(QUANTILES, lambda f: modes(f, "QUANTILES", config=False)),
    ),
    "mode-unknown": Case(
        "error", "action: LeRobot knows no normalisation MEDIAN", lambda f: modes(f, "MEDIAN", config=False)
    ),
    "identity": Case("note", "action: not normalised, though there are statistics", lambda f: modes(f, "IDENTITY")),
    "feature": Case(
        "error",
        "observation.state: not among the features that policy_preprocessor.json normalises",
        lambda f: edit_step(f, "normalizer_processor", features={}),
    ),
    "pictures": Case(
        "error",
        "observation.images.front: policy_preprocessor.json normalises pictures (MEAN_STD)",
        all_of(
            lambda f: edit_stats(f, lambda stats: stats | PICTURES),
            lambda f: edit_step(
                f, "normalizer_processor", norm_map={"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
            ),
        ),
    ),
    "not-chosen": Case(
        "error",
        "observation.state: not among the features that policy_preprocessor.json normalises",
        lambda f: edit_step(f, "normalizer_processor", normalize_observation_keys=["observation.environment_state"]),
    ),
}


def relative(folder: Path, *, config: bool = True, pre: bool = True, post: bool = True, **settings) -> None:
    """Switches relative actions on."""
    edit_json(folder / "config.json", use_relative_actions=config)
    edit_step(folder, "relative_actions_processor", enabled=pre, **settings)
    edit_step(folder, "absolute_actions_processor", enabled=post)


def swap_steps(folder: Path, first: str, second: str) -> None:
    for pipeline in (folder / name for name in PIPELINES):
        saved = json.loads(pipeline.read_text())
        names = [step["registry_name"] for step in saved["steps"]]
        if first in names and second in names:
            i, j = names.index(first), names.index(second)
            saved["steps"][i], saved["steps"][j] = saved["steps"][j], saved["steps"][i]
        pipeline.write_text(json.dumps(saved))


RELATIVE_ACTIONS = {
    "relative": Case("note", "actions are relative to the state at their chunk's observation", relative),
    "relative-pre": Case("error", "policy_postprocessor.json has not", lambda f: relative(f, post=False)),
    "relative-post": Case("error", "policy_preprocessor.json has not", lambda f: relative(f, pre=False)),
    "relative-config": Case(
        "error", "its processors take actions as absolute", lambda f: relative(f, pre=False, post=False)
    ),
    "relative-pipelines": Case(
        "warning", "its processors take actions as relative", lambda f: relative(f, config=False)
    ),
    "relative-unnamed": Case(
        "warning",
        "gripper is to stay absolute, but there are no action_names",
        lambda f: relative(f, exclude_joints=["gripper"]),
    ),
    "relative-misnamed": Case(
        "warning",
        "gripper is to stay absolute, but is none of joint_0.pos",
        lambda f: relative(f, exclude_joints=["gripper"], action_names=[f"joint_{i}.pos" for i in range(6)]),
    ),
    "relative-order": Case(
        "error",
        "relative_actions_processor after normalizer_processor",
        all_of(relative, lambda f: swap_steps(f, "relative_actions_processor", "normalizer_processor")),
    ),
    "absolute-order": Case(
        "error",
        "unnormalizer_processor after absolute_actions_processor",
        all_of(relative, lambda f: swap_steps(f, "unnormalizer_processor", "absolute_actions_processor")),
    ),
    "relative-to-less": Case(
        "error", "6 actions cannot be relative to a state of 4 values", all_of(relative, wide(4, 6))
    ),
}


def rename_map(folder: Path, **names: str) -> None:
    """The robot's camera -> the checkpoint's."""
    full = {f"observation.images.{theirs}": f"observation.images.{ours}" for theirs, ours in names.items()}
    edit_step(folder, "rename_observations_processor", rename_map=full)


NAMES = {
    "renamed": Case(
        "note", "observation.images.top is taken for observation.images.front", lambda f: rename_map(f, top="front")
    ),
    "swapped": Case(
        "warning",
        "which lerobot-eval and lerobot-rollout leave out",
        lambda f: rename_map(f, front="wrist", wrist="front"),
    ),
    "renamed-state": Case(
        "warning",
        "observation.qpos is taken for observation.state",
        lambda f: edit_step(f, "rename_observations_processor", rename_map={"observation.qpos": "observation.state"}),
    ),
    "renamed-astray": Case(
        "warning", "the config has only observation.images.front", lambda f: rename_map(f, top="base_0_rgb")
    ),
    "renamed-twice": Case(
        "warning", "renamed from more than one name", lambda f: rename_map(f, top="front", up="front")
    ),
    "no-camera": Case(
        "warning",
        "the config names none",
        lambda f: edit_json(
            f / "config.json",
            input_features={"observation.state": {"type": "STATE", "shape": [6]}},
        ),
    ),
}


PROMPT = {
    "shorter": Case(
        "warning",
        "policy_preprocessor.json cuts it at 20 tokens, which is what happens; the config says 48",
        lambda f: edit_step(f, "tokenizer_processor", max_length=20),
    ),
    "no-newline": Case(
        "warning", "would not end with the line break", lambda f: without_step(f, "pi0_new_line_processor")
    ),
    "no-tokenizer": Case(
        "error", "no step of policy_preprocessor.json tokenizes it", lambda f: without_step(f, "tokenizer_processor")
    ),
}


STATE_STEP = "pi05_prepare_state_tokenizer_processor_step"
OF_PI05 = {
    "base-model": Case(
        "warning",
        "normalised by q01 and q99 in training, but the checkpoint has no stat",
        without_state_file(*PIPELINES),
    ),
    "no-q99": Case("error", "observation.state: QUANTILES needs q01 and q99, got", with_stats(state_q99=None)),
    "q99-below-q01": Case("error", "action: q01 is above q99", with_stats(action_q01=9.0, action_q99=-9.0)),
    "mean-and-std": Case(
        "warning",
        "observation.state: the config says QUANTILES, policy_preprocessor.json MEAN_STD, which is what happens",
        lambda f: modes(f, "MEAN_STD", config=False),
    ),
    "action-40": Case("error", "action: the statistics are of 40 values, and pi0.5 takes 32", wide(6, 40)),
    "state-not-in-the-prompt": Case(
        "error",
        "the model would never see the state, which pi0.5 reads in the prompt",
        lambda f: without_step(f, STATE_STEP),
    ),
    "state-not-normalised": Case(
        "error",
        f"writes the state into it ({STATE_STEP}) before it is normalised",
        lambda f: swap_steps(f, STATE_STEP, "normalizer_processor"),
    ),
    "shorter": Case(
        "warning",
        "policy_preprocessor.json cuts it at 48 tokens, which is what happens; the config says 200",
        lambda f: edit_step(f, "tokenizer_processor", max_length=48),
    ),
    **{name: RELATIVE_ACTIONS[name] for name in ("relative", "relative-order", "absolute-order", "relative-to-less")},
}
"""Of a checkpoint of pi0.5."""
