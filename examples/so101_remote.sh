#!/usr/bin/env bash
# An SO-101 arm with two cameras on this machine; the Tenstorrent card is in another. docs/remote.md explains each step.
#
# There:  lerobot-pi0-ttnn doctor && lerobot-pi0-ttnn serve
# Here:   examples/so101_remote.sh user@there CHECKPOINT "what it shall do, in the words of the training"
#
# Before: both have the same LeRobot release; this one needs no card and nothing of this package. CHECKPOINT is a folder there,
#   or on the Hub. The arm is calibrated, its power switch is in reach, and nobody else is.
# Stop: Ctrl-C: the arm goes limp where it is, so hold it. In an emergency cut its power.
set -euo pipefail
there=${1:?user@machine of the card}
checkpoint=${2:?a folder there, or owner/name on the Hub}
task=${3:?what the arm shall do}

# Yours, as in so101_rollout.sh.
port=/dev/ttyACM0
id=follower
cameras="{
    front: {type: opencv, index_or_path: 0, width: 640, height: 480, fps: 30},
    wrist: {type: opencv, index_or_path: 2, width: 640, height: 480, fps: 30}}"

# 1. LeRobot's protocol knows no password: the port stays closed to the network, and ssh carries it here until this script ends.
tunnel=$(mktemp -u)
ssh -f -N -M -S "$tunnel" -o ExitOnForwardFailure=yes -L 8080:localhost:8080 "$there"
trap 'ssh -S "$tunnel" -O exit "$there"' EXIT

# 2. LeRobot's own client. It ends with the reason where checkpoint and arm do not go together. (For a pi0.5: pi05_ttnn.)
python -m lerobot.async_inference.robot_client \
    --server_address=localhost:8080 \
    --policy_type=pi0_ttnn \
    --pretrained_name_or_path="$checkpoint" \
    --robot.type=so101_follower \
    --robot.port="$port" \
    --robot.id="$id" \
    --robot.cameras="$cameras" \
    --robot.max_relative_target=10 \
    --task="$task" \
    --actions_per_chunk=50 \
    --chunk_size_threshold=0.5 \
    --aggregate_fn_name=weighted_average
