"""How a chunk of actions comes about: prefix, keys and values, Euler steps. Written once, for both twins."""

from collections.abc import Sequence
from typing import Protocol

from ..latency import Stage, untimed
from .rtc import Guidable, Guidance, gains, guided


class Graph[O, C, P, S, T](Protocol):
    """What a twin computes; tensors are its own (T), and so are observation (O), context (C), prefix (P) and step (S)."""

    def embed_prefix(self, observation: O, context: C) -> T:
        """Returns the embeddings of images and prompt."""

    def prefill(self, embeddings: T, observation: O, context: C) -> P:
        """Returns the keys and values of all that is the same in every step."""

    def velocity(self, x_t: T, step: S, prefix: P, /) -> T:
        """Returns dx/dt."""

    def advance(self, x: T, velocity: T, dt: float, /) -> T:
        """Returns x after one Euler step."""


def sample[O, C, P, S, T: Guidable](
    graph: Graph[O, C, P, S, T],
    observation: O,
    context: C,
    noise: T,
    steps: Sequence[S],
    times: Sequence[float],
    guidance: Guidance[T] | None = None,
    stage: Stage = untimed,
) -> T:
    """Returns a chunk of actions, shaped like `noise`.

    Args:
        graph: of the twin.
        observation: what is new at every call.
        context: what belongs to the prompt and to the cameras that are present.
        noise: x at t = 1.
        steps: what each of `times` brings to its step.
        times: see `flow.schedule`.
        guidance: towards the former chunk.
        stage: in whose contexts the work is done, to time it.
    """
    with stage("vision"):
        embeddings = graph.embed_prefix(observation, context)
    with stage("prefill"):
        prefix = graph.prefill(embeddings, observation, context)
    return denoise(graph, prefix, noise, steps, times, guidance, stage)


def denoise[O, C, P, S, T: Guidable](
    graph: Graph[O, C, P, S, T],
    prefix: P,
    noise: T,
    steps: Sequence[S],
    times: Sequence[float],
    guidance: Guidance[T] | None = None,
    stage: Stage = untimed,
) -> T:
    """Returns x at t = 0 after one Euler step of -1/len(times) for each of `times`; the arguments are those of `sample`."""
    gain = gains(times, guidance.max_gain) if guidance else []
    x = noise
    for number, (step, time) in enumerate(zip(steps, times, strict=True)):
        with stage(f"step {number + 1}"):
            velocity = graph.velocity(x, step, prefix)
            if guidance:
                velocity = guided(velocity, x, guidance, time, gain[number])
            x = graph.advance(x, velocity, -1.0 / len(times))
    return x
