"""LeRobot's async policy server, for this policy, with errors that reach the robot's end.

LeRobot's own loads before it looks at what the client has, takes no config, and answers an inference that failed as if there
were no actions yet, for which its client waits for ever.
"""

import logging
import pickle
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from lerobot.async_inference.configs import PolicyServerConfig
from lerobot.async_inference.helpers import RemotePolicyConfig, TimedAction, TimedObservation
from lerobot.async_inference.policy_server import PolicyServer
from lerobot.policies import make_pre_post_processors
from lerobot.transport import services_pb2
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE

from ...checkpoint.files import CheckpointSource
from ...checkpoint.processors import RENAME, read_processors
from ...config_loading import CONFIGS, check_type, load_config, saved_type
from ...configuration_pi0_ttnn import PI0TTNNConfig
from ...modeling_pi0_ttnn import PI0TTNNPolicy
from ...policy_loading import load_policy
from ...review import admit
from .message import message_of
from .movement import Movement, read_movement
from .observation import check_pictures, read_observation
from .robot_joints import ClientJoints, match_client

MESSAGE_LIMIT = 2000
"""Characters of an error that go to the client: gRPC sends them as a header, and drops headers over 8 KiB."""


class PI0TTNNPolicyServer(PolicyServer):
    """LeRobot's servicer, which loads checkpoints of pi0 and pi0.5 on this package.

    Args:
        config: LeRobot's.
        policy_overrides: `--field=value` for each field of `PI0TTNNConfig` that is to differ from the checkpoint's.
    """

    policy: PI0TTNNPolicy | None

    def __init__(self, config: PolicyServerConfig, policy_overrides: Sequence[str] = ()) -> None:
        super().__init__(config)
        self._policy_overrides = policy_overrides
        self._busy = threading.Lock()  # a client that comes back may find the inference of its former self running
        self._failure: str | None = None
        self._joints: ClientJoints | None = None
        self._has_moved: Movement | None = None
        self._untold: list[str] = []
        """Warnings that the client has not been told yet."""

    def SendPolicyInstructions(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Loads the checkpoint that the client asks for; what it cannot have it is told, before the weights are read."""
        with self._busy, _told(context, grpc.StatusCode.INVALID_ARGUMENT, self.logger):
            asked = pickle.loads(request.data)
            config, warnings = self._agree(asked)
            joints = match_client(config, asked.lerobot_features, asked.pretrained_name_or_path)
            level = logging.INFO if joints.is_certain else logging.WARNING
            self.logger.log(level, "%s: %s", asked.pretrained_name_or_path, joints.note)
            if not joints.is_certain:
                warnings.append(joints.note)
            self.logger.info("%s: loading for %s", asked.pretrained_name_or_path, context.peer())
            self.close()
            self.preprocessor, self.postprocessor = make_pre_post_processors(
                config,
                pretrained_path=asked.pretrained_name_or_path,
                preprocessor_overrides={
                    "device_processor": {"device": config.device},
                    **({RENAME: {"rename_map": asked.rename_map}} if asked.rename_map else {}),
                },
                postprocessor_overrides={"device_processor": {"device": config.device}},
            )
            self.policy = load_policy(asked.pretrained_name_or_path, config=config)
            self.policy_type, self.device = asked.policy_type, config.device
            self._joints, self._has_moved = joints, read_movement(self.preprocessor, joints.states)
            self.lerobot_features = joints.among(asked.lerobot_features)
            self.actions_per_chunk = asked.actions_per_chunk
            self.last_processed_obs = self._failure = None
            self._untold = warnings
            self.logger.info("%s: ready, backend %s", asked.pretrained_name_or_path, config.backend)
        return services_pb2.Empty()

    def _agree(self, asked: RemotePolicyConfig) -> tuple[PI0TTNNConfig, list[str]]:
        """Returns the config to load with, and what the client is to be warned of.

        The checkpoint's own renaming counts, unless the client has one: that of LeRobot 0.6.1 cannot.

        Raises:
            ValueError: checkpoint and robot do not go together, or the checkpoint cannot run.
        """
        if asked.policy_type not in CONFIGS:
            raise ValueError(
                f"this server runs policies of type {', '.join(CONFIGS)}, got {asked.policy_type!r}: start the client with the "
                "--policy_type that the checkpoint's config.json names."
            )
        source = CheckpointSource(asked.pretrained_name_or_path)
        check_type(saved_type(source), CONFIGS[asked.policy_type], source)
        config = load_config(source, self._policy_overrides)
        warnings = admit(config, source)
        check_pictures(asked.lerobot_features)
        processors = read_processors(source)
        renamed = config.camera_aliases | (asked.rename_map or processors.rename_map)
        try:
            if processors.preprocessor is None:
                raise ValueError(f"{source}: without processors it cannot be served.")
            check_cameras(asked.lerobot_features, list(config.image_features), str(source), renamed)
            if processors.state_stats:
                check_state(asked.lerobot_features, config.robot_state_feature.shape[0], str(source))
        except ValueError as error:
            raise ValueError("\n".join([str(error), *warnings])) from error
        return config, warnings

    def GetActions(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Returns the next chunk; once an inference has failed, the reason, until a client connects anew.

        Warnings go before the first chunk, each once and as an error: LeRobot's client logs an error and asks again, and
        shows its user nothing else that a server says.
        """
        if self._untold and not self._failure:
            context.abort(
                grpc.StatusCode.ABORTED, _cut(f"warning, the robot moves all the same: {self._untold.pop(0)}")
            )
        if self._failure:
            time.sleep(self.config.obs_queue_timeout)  # the client asks again at once, and would fill its log
        else:
            actions = super().GetActions(request, context)
        if self._failure:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, self._failure)
        return actions

    def _predict_action_chunk(self, observation_t: TimedObservation) -> list[TimedAction]:
        with self._busy:
            try:
                if self.policy is None:
                    raise RuntimeError("this server has no checkpoint loaded; if it was restarted, restart the client.")
                chunk = self._chunk(observation_t)
                self._untold += self.policy.take_warnings()
            except Exception as error:
                self.logger.exception("Inference failed")
                self._failure = f"inference failed, the robot gets no more actions: {_message(error)}"
                raise
        return chunk

    def _chunk(self, observed: TimedObservation) -> list[TimedAction]:
        """Returns what LeRobot's method of that name would, had it left the pictures' aspect alone; see `observation.py`."""
        begun = time.perf_counter()
        batch = self.preprocessor(read_observation(observed.get_observation(), self.lerobot_features))
        self.last_processed_obs = observed
        actions = self.postprocessor(self._get_action_chunk(batch))[0]
        if self._joints and self._joints.actions:
            actions = actions[:, self._joints.actions]
        self.logger.info(
            "Observation %d: %d actions in %.2f s", observed.get_timestep(), len(actions), time.perf_counter() - begun
        )
        chunk: list[TimedAction] = self._time_action_chunk(
            observed.get_timestamp(), list(actions), observed.get_timestep()
        )
        return chunk

    def _obs_sanity_checks(self, obs: TimedObservation, previous_obs: TimedObservation) -> bool:
        """Returns whether an observation is worth a chunk, as LeRobot's method of that name; see `movement.py`."""
        with self._predicted_timesteps_lock:
            if obs.get_timestep() in self._predicted_timesteps:
                return False
        return self._has_moved is None or self._has_moved(previous_obs.get_observation(), obs.get_observation())

    def close(self) -> None:
        """Gives the board back."""
        if self.policy is not None:
            self.policy.close()
            self.policy = None


def check_cameras(
    features: Mapping[str, Any], cameras: Sequence[str], where: str, rename_map: Mapping[str, str] | None = None
) -> None:
    """Raises ValueError where the robot's cameras are not those of the checkpoint.

    A robot may lack some, pi0 masks them; LeRobot's server fails on one that the checkpoint does not know.

    Args:
        features: what the client sends, as LeRobot names it.
        cameras: the checkpoint's keys.
        where: the checkpoint, for the message.
        rename_map: the robot's names of observations -> the checkpoint's, where they differ.
    """
    rename_map = rename_map or {}
    sent = [key for key in features if key.startswith(OBS_IMAGES)]
    taken_for = [rename_map.get(key, key) for key in sent]
    if twice := sorted({key for key in taken_for if taken_for.count(key) > 1}):
        both = ", ".join(key for key in sent if rename_map.get(key, key) in twice)
        raise ValueError(
            f"{where}: {both} of the robot are all taken for {', '.join(twice)}, by the checkpoint's rename_map; leave all but "
            "one out of the client's --robot.cameras."
        )
    if not sent or not set(taken_for) <= set(cameras):
        names = [f"{key} (taken for {rename_map[key]})" if key in rename_map else key for key in sent]
        raise ValueError(
            f"{where}: trained with the cameras {', '.join(cameras)}; the robot has {', '.join(names) or 'none'}. Name the "
            f"robot's alike in the client's --robot.cameras, where `x` stands for `{OBS_IMAGES}.x`, and leave out those that "
            "the checkpoint does not have; one that the robot lacks may be absent."
        )


def check_state(features: Mapping[str, Any], width: int, where: str) -> None:
    """Raises ValueError where the robot has more or fewer joints than the checkpoint was trained with.

    Args:
        features: what the client sends, as LeRobot names it.
        width: the checkpoint's number of joints.
        where: the checkpoint, for the message.
    """
    names = features[OBS_STATE]["names"] if OBS_STATE in features else []
    if len(names) != width:
        raise ValueError(
            f"{where}: trained with a state of {width} values, the robot has {len(names)} ({', '.join(names)}); use the "
            "kind of robot that the checkpoint was trained on."
        )


@contextmanager
def _told(context: grpc.ServicerContext, code: grpc.StatusCode, logger: logging.Logger) -> Iterator[None]:
    """Sends what is raised inside to the client, whatever it is: this is where it leaves the process."""
    try:
        yield
    except Exception as error:
        logger.exception("the client's request failed")
        context.abort(code, _message(error))


def _message(error: Exception) -> str:
    return _cut(message_of(error))


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]} ..."
