"""An SO-101 arm with two cameras in a Python loop of your own; so101_rollout.sh is the same by LeRobot's command.

    python examples/so101_loop.py CHECKPOINT "what it shall do, in the words of the training"

Before: so101_rollout.sh has run well with the same checkpoint. Stop: Ctrl-C; the arm goes limp, so hold it.
"""

import sys
import time

import torch
from lerobot.cameras.opencv import OpenCVCameraConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.utils import build_inference_frame, make_robot_action
from lerobot.robots.so_follower import SO101Follower, SOFollowerRobotConfig
from lerobot.utils.feature_utils import hw_to_dataset_features
from lerobot.utils.robot_utils import precise_sleep

from lerobot_pi0_ttnn import load_policy

checkpoint, task = sys.argv[1:]
fps, cpu = 30, torch.device("cpu")

# Yours: port, id, and the cameras under the names that they had in training.
cameras = {
    name: OpenCVCameraConfig(index_or_path=number, width=640, height=480, fps=fps)
    for name, number in {"front": 0, "wrist": 2}.items()
}
config = SOFollowerRobotConfig(id="follower", port="/dev/ttyACM0", cameras=cameras, max_relative_target=10)

# Weights onto the card (board="emulated:n150" where there is none); the checkpoint's own tokenizer and statistics.
policy = load_policy(checkpoint)
preprocess, postprocess = make_pre_post_processors(
    policy.config, checkpoint, preprocessor_overrides={"device_processor": {"device": "cpu"}}
)

robot = SO101Follower(config)
robot.connect()
features = hw_to_dataset_features(robot.observation_features, "observation") | hw_to_dataset_features(
    robot.action_features, "action"
)
try:
    while True:  # joints go by position: compare the robot's with those that `lerobot-pi0-ttnn info CHECKPOINT` names
        start = time.perf_counter()
        frame = build_inference_frame(robot.get_observation(), cpu, features, task)
        action = postprocess(policy.select_action(preprocess(frame)))  # a chunk when the queue is empty
        robot.send_action(make_robot_action(action, features))
        precise_sleep(max(0.0, 1 / fps - (time.perf_counter() - start)))
except KeyboardInterrupt:
    pass
finally:
    robot.disconnect()
    policy.close()
