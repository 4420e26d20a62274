"""The policy: LeRobot on one side, a pi0 model on the other. LeRobot finds this module by its name."""

import dataclasses
import logging
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from lerobot.utils.constants import ACTION
from safetensors.torch import save_file
from torch import Tensor

from .action_limits import ActionLimits, check_finite, read_action_limits
from .backend import build_model, open_backend, warm_up
from .certificate import FirstChunkCheck
from .checkpoint import CheckpointWeights, open_weights
from .checkpoint.files import SINGLE, CheckpointSource
from .checkpoint.tokenizer import FOLDER, save_tokenizer
from .config_loading import choose_config, load_config
from .configuration_pi0_ttnn import PI0TTNNConfig
from .latency import Stopwatch
from .latency_report import HOST, TOTAL, device_stage, latency_report
from .model.rtc import Guidance, make_guidance
from .observation import ObservationReader
from .processor_pi0_ttnn import tokenizer_of
from .recording import Recorder
from .review import refuse_or_warn, review, settle_features
from .rollout_robot import check_data_set, check_rollout

logger = logging.getLogger(__name__)


class PI0TTNNPolicy(PreTrainedPolicy):
    """pi0 as a LeRobot policy, for inference. It holds no torch parameters; the model lives in `self.model`.

    Use `from_pretrained`; there is no untrained pi0.

    Args:
        config: what the user chose; completed in place with LeRobot's default features.
        weights: all tensors by name, what `open_weights` returned or a dict.
        action_limits: what actions are clamped to if `config.clamp_actions` says so.
        kwargs: what LeRobot's factory passes on from a data set; not used.

    Raises:
        ValueError: there are no weights, or not exactly those of the configured model.
        ImportError: the ttnn backend's package is not installed.
        FileNotFoundError: there is no such board; the message says what else there is.
    """

    config_class = PI0TTNNConfig
    name = "pi0_ttnn"

    def __init__(
        self,
        config: PI0TTNNConfig,
        weights: Mapping[str, Tensor] | None = None,
        *,
        action_limits: ActionLimits | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(config)
        if weights is None:
            raise ValueError(
                f"{self.name} runs trained weights only: give a checkpoint (--policy.path=FOLDER_OR_HUB_ID, or "
                f"{type(self).__name__}.from_pretrained); to train one, use --policy.type={self.name.removesuffix('_ttnn')}."
            )
        if config.clamp_actions and action_limits is None:
            raise ValueError("clamp_actions: needs action_limits, which from_pretrained reads from the checkpoint.")
        config.validate_features()
        self.weights = weights
        self._action_limits = action_limits
        self._is_closed = self._is_warm = False
        self._queue_lock = threading.RLock()
        self._free: weakref.finalize[..., Any] | None = None
        self.board = open_backend(config)
        try:
            self.model = build_model(config, weights, self.board)
            if self.board:
                # Who drops a policy without closing it leaves its tensors to the board, see there.
                self._free = weakref.finalize(self, self.board.discard, self.model)
                self._free.atexit = False
            self._read = _observation_reader(config)
            self._stopwatch = Stopwatch()
            self._first_chunk = FirstChunkCheck(config, weights, self.board) if config.verify_first else None
            self._recorder = Recorder(config.recording_path) if config.recording_path else None
            self.init_rtc_processor()
            self.reset()
            self.eval()
        except BaseException:
            self.close()
            raise

    @classmethod
    def from_pretrained(  # type: ignore[no-untyped-def] # as LeRobot's signature, `kwargs` has no type
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        subfolder: str | None = None,
        force_download: bool = False,
        **kwargs,
    ) -> Self:
        """Returns the policy of a checkpoint that LeRobot's pi0 or this package saved; openpi's are to be converted first.

        A LoRA adapter's folder gives its base model with the adapter merged into it; `base_model` says where that is, if it
        is not where the adapter was trained.

        Args:
            pretrained_name_or_path: a folder, or `owner/name` on the Hub.
            config: the config to use; the checkpoint's own by default.
            token: the Hub's access token; the one of `hf auth login` by default.
            cache_dir: the Hub's cache folder; huggingface_hub's own by default.
            local_files_only: never ask the network.
            revision: branch, tag or commit on the Hub.
            subfolder: where in the folder or repository the checkpoint lies.
            force_download: fetch the files from the Hub even where the cache has them.
            kwargs: fields of the config to set, such as `backend="torch"`. What LeRobot passes to every policy and has no
                meaning here (`strict`, data set statistics, `proxies`) is accepted.

        Raises:
            TypeError: an argument that is neither, or a config of another policy.
            FileNotFoundError: no such folder, repository or revision, or no weights in it.
            PermissionError: the repository is private or gated.
            ConnectionError: the Hub cannot be reached and the files are not in the cache.
            ValueError: a file is damaged, or the checkpoint is of another model, incomplete or mis-shaped, or an adapter
                that cannot be merged; or its processors would move a robot wrongly, see `review`.
            ImportError: the ttnn backend's package is not installed.

        Under `lerobot-rollout` the robot's joints are compared with the checkpoint's: see `check_rollout` for its ValueErrors.
        """
        source = CheckpointSource(
            pretrained_name_or_path, revision, token, cache_dir, local_files_only, subfolder, force_download
        )
        config = choose_config(cls.config_class, config, source, kwargs)
        config.checkpoint = source
        refuse_or_warn(review(config, source), source, logger)
        settle_features(config, source)
        check_rollout(config, str(source))
        if kwargs.get("dataset_meta") is not None:
            check_data_set(kwargs["dataset_meta"], load_config(source), str(source))
        limits = read_action_limits(config, source) if config.clamp_actions else None
        policy = cls(config, open_weights(source, config.base_model), action_limits=limits)
        if config.warm_up:
            policy._warm_up_or_close()
        return policy

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes config.json and the weights: the checkpoint's own files, as hard links where possible, or the merged ones."""
        if state_dict:
            raise ValueError(
                "state_dict: this policy has no parameters to gather; it saves the checkpoint it was loaded from."
            )
        dataclasses.replace(self.config, base_model=None)._save_pretrained(save_directory)
        if self.config.tokenizer_name == FOLDER and self.config.checkpoint:
            save_tokenizer(tokenizer_of(self.config), save_directory)
        if isinstance(self.weights, CheckpointWeights):
            self.weights.save(save_directory)
        else:
            save_file({name: tensor.contiguous() for name, tensor in self.weights.items()}, save_directory / SINGLE)

    def reset(self) -> None:
        """Forgets the queued actions: call it when an episode begins."""
        with self._queue_lock:
            self._action_queue: deque[Tensor] = deque(maxlen=self.config.n_action_steps)
            if self._recorder:
                self._recorder.reset()

    def drop_queued_actions(self) -> None:
        """Forgets the queued actions, so that the next one is of a chunk that knows what has changed, a prompt for instance.

        LeRobot's own, after 0.6.1, empties the queue beside threads that take actions from it.
        """
        with self._queue_lock:
            self._action_queue.clear()

    def warm_up(self) -> None:
        """Runs the model before it counts, as often as there are sets of kernels: each number of cameras, each prompt bucket.

        Raises:
            FloatingPointError: the model computes NaN or infinity.
            BoardError: the board fails.
        """
        with self._backend("warming up"):
            warm_up(
                self.model,
                cameras=len(self.config.image_features),
                tokens=self._prompt_lengths(),
                max_gain=self.config.rtc_config.max_guidance_weight if self._rtc_enabled() else None,
            )
        self._is_warm = True

    def _prompt_lengths(self) -> tuple[int, int]:
        """Returns how many tokens prompts have, at least and at most."""
        return 1, self.config.tokenizer_max_length

    def _warm_up_or_close(self) -> None:
        if self.board and self.board.kind == "emulated":
            logger.info("warm_up: %s has no kernels to compile.", self.board.name)
            return
        try:
            self.warm_up()
        except BaseException:
            self.close()
            raise

    def latency(self) -> dict[str, Any]:
        """Returns how long chunks took since the policy was loaded, from observation to actions, and where the time went.

        `milliseconds` has for each stage `count`, `p50`, `p95`, `p99`, `max` and `jitter` (standard deviation). On a card the
        stages after the host's are told apart only where `config.time_stages` is set. An emulated or a simulated board has
        no milliseconds: `note` says so. The other entries say what was timed.
        """
        return latency_report(self.config, self.model, self.board, self._stopwatch)

    def supports_rtc(self) -> bool:
        """Returns True: LeRobot's engine may ask for chunks that follow on from the former one."""
        return True

    def init_rtc_processor(self) -> None:
        """Follows `config.rtc_config`, which LeRobot's engine sets after loading; call it again once that has changed.

        On a board that is warm, what guided chunks need is warmed up too.
        """
        rtc = self.config.rtc_config
        self.rtc_processor = RTCProcessor(rtc) if rtc else None
        self.model.rtc_processor = self.rtc_processor  # type: ignore[union-attr] # where LeRobot has it too
        if rtc and rtc.debug:
            logger.warning("rtc_config.debug has no effect on this policy: the steps stay on its backend.")
        if self._is_warm and self._rtc_enabled() and self.board:
            self.warm_up()

    def _rtc_enabled(self) -> bool:
        return self.config.rtc_config is not None and self.config.rtc_config.enabled

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], *, noise: Tensor | None = None) -> Tensor:
        """Returns the next action, (B, A) float32 on the CPU, normalised; predicts a chunk when the queue is empty.

        Threads take turns, each action goes to one of them. There is one queue: they must be about one episode.
        Where no chunk can be predicted (see there), what is queued of the former one is handed out first.

        Args:
            batch: see `predict_action_chunk`.
            noise: for the chunk, if one is predicted.

        Raises:
            RuntimeError: real-time chunking is enabled, and LeRobot's engine is to manage the queue; or actions are relative
                to the state at the chunk's observation, which whoever post-processes one at a time does not have any more.
        """
        if self._rtc_enabled():
            raise RuntimeError(
                "select_action: real-time chunking is enabled, and needs predict_action_chunk and a queue that knows the "
                "delay: run lerobot-rollout --inference.type=rtc, or set config.rtc_config.enabled = False."
            )
        if self.config.use_relative_actions and self.config.n_action_steps > 1:
            raise RuntimeError(
                "select_action: this checkpoint's actions are relative to the state at their chunk's observation, and "
                "LeRobot's post-processing of single ones adds the state of the tick, so that the arm drifts: run "
                "lerobot-rollout --inference.type=rtc or lerobot-pi0-ttnn serve, or set --policy.n_action_steps=1."
            )
        with self._queue_lock:
            if not self._action_queue:
                chunk = self.predict_action_chunk(batch, noise=noise)
                self._action_queue.extend(chunk[:, : self.config.n_action_steps].transpose(0, 1))
            action = self._action_queue.popleft()
            if self._recorder:
                self._recorder.action(action)
            return action

    @torch.compiler.disable  # type: ignore[untyped-decorator] # --use_torch_compile would trace through the backend
    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Tensor],
        *,
        noise: Tensor | None = None,
        num_steps: int | None = None,
        generator: torch.Generator | None = None,
        inference_delay: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
        execution_horizon: int | None = None,
    ) -> Tensor:
        """Returns a chunk of actions, (B, chunk_size, A) float32 on the CPU, normalised.

        Args:
            batch: LeRobot's preprocessed batch, see `observation.py`.
            noise: (B, chunk_size, max_action_dim) float32; drawn by default.
            num_steps: Euler steps; `config.num_inference_steps` by default.
            generator: source of the noise; torch's global one by default.
            inference_delay: how many actions are executed before the chunk is there; 0 by default. This and what follows
                counts only where `config.rtc_config` is enabled.
            prev_chunk_left_over: (T, A) or (B, T, A), what is left of the former chunk, as this method returned it; the
                chunk follows on from it. None for the first one.
            execution_horizon: from which action on the chunk is free; that of `config.rtc_config` by default.

        Raises:
            KeyError, TypeError, ValueError: the batch is not what it should be, see `ObservationReader`; nor the rest of
                the former chunk, see `make_guidance`.
            BoardError: the board fails, or has failed before; it is a RuntimeError.
            RuntimeError: the policy is closed; or `config.verify_first`, and the first chunk is not what it should be.
        """
        self._refuse_if_closed()
        with self._stopwatch.stage(TOTAL):
            with self._stopwatch.stage(HOST):
                observation = self._read(batch)
            if noise is not None:
                self._check_noise(noise, rows=observation.rows)
            guidance = None
            if prev_chunk_left_over is not None and self._rtc_enabled():
                guidance = self._guidance(prev_chunk_left_over, observation.rows, inference_delay, execution_horizon)
            check = self._first_chunk if self._first_chunk and self._first_chunk.is_due else None
            if check and noise is None:
                noise = self.model.sample_noise(check.noise_shape(observation), generator=generator)
            with self._backend("predicting a chunk"):
                if self.board:
                    self.model.eager = self.config.time_stages  # type: ignore[union-attr] # the board's model has it
                actions = self.model.sample_actions(
                    observation,
                    noise=noise,
                    num_steps=num_steps,
                    generator=generator,
                    guidance=guidance,
                    stage=device_stage(self.config, self.board, self._stopwatch),
                )
            check_finite(actions)
            if check and noise is not None:
                check(actions, observation, noise=noise, num_steps=num_steps, guidance=guidance)
            actions = actions[:, :, : self.config.output_features[ACTION].shape[0]]
            if self._action_limits and self.config.clamp_actions:
                actions = self._action_limits.clamp(actions)
        if self._recorder:
            self._recorder.chunk(actions)
        return actions

    def take_warnings(self) -> list[str]:
        """Returns what was warned of the observations since this was last called: `serve` passes it on to its client."""
        taken, self._read.warnings = self._read.warnings, []
        return taken

    def _preprocess_images(self, batch: Mapping[str, object]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the images and masks of an `Observation`, for LeRobot's tests; of `self` only `config` is used."""
        read = _observation_reader(self.config)
        return read.images(batch, rows=read.state(batch).shape[0])

    def prepare_state(self, batch: Mapping[str, object]) -> Tensor:
        """Returns the state of an `Observation`, for LeRobot's tests; of `self` only `config` is used."""
        return _observation_reader(self.config).state(batch)

    @contextmanager
    def _backend(self, doing: str) -> Iterator[None]:
        """Keeps the board, if there is one, for the calling thread; another may have closed the policy meanwhile."""
        with self.board.lock if self.board else nullcontext():
            self._refuse_if_closed()
            with self.board.in_use(doing) if self.board else nullcontext():
                yield

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise RuntimeError("this policy is closed; load it again with from_pretrained.")

    def _guidance(
        self, left_over: Tensor, rows: int, delay: int | None, execution_horizon: int | None
    ) -> Guidance[Tensor]:
        rtc, model = self.config.rtc_config, self.model.config
        return make_guidance(
            left_over,
            (rows, model.horizon, model.action_dim),
            widths=(self.config.output_features[ACTION].shape[0], model.action_dim),
            delay=delay or 0,
            execution_horizon=rtc.execution_horizon if execution_horizon is None else execution_horizon,
            schedule=rtc.prefix_attention_schedule,
            max_gain=rtc.max_guidance_weight,
        )

    def _check_noise(self, noise: Tensor, rows: int) -> None:
        expected = (rows, self.model.config.horizon, self.model.config.action_dim)
        if tuple(noise.shape) != expected or noise.dtype != torch.float32:
            raise ValueError(f"noise: expected {expected} float32, got {tuple(noise.shape)} {noise.dtype}.")

    def close(self) -> None:
        """Frees the policy's memory and gives the board back, once, after the chunk that another thread may be predicting.

        The policy cannot predict any more; what it has predicted stays queued. A board that has failed is given back, too.
        """
        with self.board.lock if self.board else nullcontext():
            if self.board and not self._is_closed:
                if self._free and self._free.detach():
                    self.board.release(self.model)  # type: ignore[arg-type] # on a board it is one that has tensors there
                self.board.close()
            self._is_closed = True

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Returns the policy as it is: batches and actions stay on the CPU, and the backend has its own device."""
        return self

    def forward(self, batch: dict[str, Tensor]) -> NoReturn:
        """Raises NotImplementedError: this policy is for inference."""
        raise NotImplementedError(
            f"{self.name} is for inference; train with --policy.type={self.name.removesuffix('_ttnn')} and run the result with "
            f"{self.name}."
        )

    def get_optim_params(self) -> NoReturn:
        """Raises NotImplementedError: this policy is for inference."""
        self.forward({})


def _observation_reader(config: PI0TTNNConfig) -> ObservationReader:
    model = config.model_config()
    return ObservationReader(
        cameras=list(config.image_features),
        image_size=model.vision.image_size,
        state_dim=model.state_dim,
        vocab_size=model.vocab_size,
        aliases=config.camera_aliases,
    )
