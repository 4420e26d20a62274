#!/usr/bin/env bash
# An SO-101 arm with two cameras; the Tenstorrent card is in this machine. docs/robot.md explains each step.
#
#   examples/so101_rollout.sh CHECKPOINT "what it shall do, in the words of the training" [more flags of lerobot-rollout]
#
# Before: the arm is calibrated, its power switch is in reach, and nobody else is.
# Stop: Ctrl-C, once: the arm moves back to where it started, then goes limp, so hold it. In an emergency cut its power.
set -euo pipefail
checkpoint=${1:?a folder, or owner/name on the Hub}
task=${2:?what the arm shall do}

# Yours: what lerobot-find-port says, the id that lerobot-calibrate was given, and what lerobot-find-cameras says under the names
# that the cameras had in training.
port=/dev/ttyACM0
id=follower
cameras="{
    front: {type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30},
    wrist: {type: opencv, index_or_path: 2, width: 640, height: 480, fps: 30}}"

# 1. Is this machine fit? Each failure is named with its fix, and ends this script.
lerobot-pi0-ttnn doctor --checkpoint "$checkpoint"

# 2. What was it trained on? Compare its cameras, and the number of its joints.
lerobot-pi0-ttnn info "$checkpoint"

# 3. Thirty seconds of it, no joint told to go further than 10 degrees at a time: take that line out once you trust it.
lerobot-rollout \
    --discover_packages_path=lerobot_pi0_ttnn.plugins \
    --policy.path="$checkpoint" \
    --robot.type=so101_follower \
    --robot.port="$port" \
    --robot.id="$id" \
    --robot.cameras="$cameras" \
    --robot.max_relative_target=10 \
    --task="$task" \
    --fps=30 \
    --duration=30 \
    "${@:3}"
