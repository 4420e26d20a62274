#!/usr/bin/env bash
# As so101_rollout.sh, without the pauses between chunks: real-time chunking predicts the next chunk while the arm still moves.
#
#   examples/so101_rtc.sh CHECKPOINT "what it shall do, in the words of the training" [more flags of lerobot-rollout]
#
# Before: so101_rollout.sh has run well with the same checkpoint; it holds the lines marked (yours).
# Stop: Ctrl-C, once: the arm moves back to where it started, then goes limp, so hold it. In an emergency cut its power.
set -euo pipefail

# A chunk must come in well under 50 ticks, or LeRobot throws it away: at 30 a second, in well under 1.6 s.
# The next chunk is asked for when 30 actions are left; its first 10 are bound to what the arm is doing by then.
exec "$(dirname "$0")/so101_rollout.sh" "$@" \
    --inference.type=rtc \
    --inference.queue_threshold=30 \
    --inference.rtc.execution_horizon=10 \
    --inference.rtc.max_guidance_weight=10
