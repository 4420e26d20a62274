"""The whole TTNN twin against the float32 twin in PyTorch, and the identities that its graph rests on.

The identities are tested to the bit: what is left out, hidden or reused must not move a result at all.
"""

from dataclasses import replace

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.device import uploads  # noqa: E402
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.device.uploads import Contexts, cache_length  # noqa: E402
from lerobot_pi0_ttnn.model.config import TINY  # noqa: E402
from lerobot_pi0_ttnn.model.flow import schedule  # noqa: E402
from lerobot_pi0_ttnn.model.observation import Observation  # noqa: E402
from lerobot_pi0_ttnn.reference import PI0ModelTorch  # noqa: E402

from ..oracle import make_noise, only_row  # noqa: E402
from ..quality import assert_quality  # noqa: E402
from .tt import actions_of, prefilled, random_inputs, random_weights, tokens_of, up_actions, upload_row  # noqa: E402

UPLOADS_PER_ROW = 3
"""Pixels, state, noise: masks, tables and the prompt's embeddings are there already."""


@pytest.fixture(scope="module")
def exact(tt_model) -> PI0ModelTTNN:
    return tt_model("accurate")


@pytest.fixture(scope="module")
def chunk(exact, inputs) -> torch.Tensor:
    """Actions of the awkward batch after two steps: as many as it takes for a step to see what the former one left."""
    return exact.sample_actions(**inputs, noise=make_noise(), num_steps=2)


class TestQuality:
    """The error is that of the parts, 0.5 % in bfloat16, 2 % with bfloat8_b weights; half of x_0 is exact noise."""

    @pytest.mark.parametrize(
        ("precision", "pcc", "rel_rmse"),
        [("accurate", 0.9999, 0.008), ("balanced", 0.9995, 0.03), ("fast", 0.9995, 0.03)],
    )
    def test_awkward_batch(self, tt_model, twin, inputs, precision, pcc, rel_rmse):
        got = tt_model(precision).sample_actions(**inputs, noise=make_noise())
        assert got.dtype == torch.float32
        assert_quality(got, twin.sample_actions(**inputs, noise=make_noise()), pcc=pcc, rel_rmse=rel_rmse)

    @pytest.mark.parametrize(
        ("cameras", "tokens"),
        [
            pytest.param(1, 1, id="shortest-prompt"),
            pytest.param(1, 32, id="whole-tile"),
            pytest.param(0, 5, id="no-camera"),
            pytest.param(2, 0, id="no-prompt"),
            pytest.param(4, 48, id="longest"),
        ],
    )
    def test_sizes(self, exact, twin, cameras, tokens):
        inputs, noise = random_inputs(TINY, cameras, tokens), make_noise(batch=1)
        got = exact.sample_actions(**inputs, noise=noise, num_steps=3)
        assert_quality(got, twin.sample_actions(**inputs, noise=noise, num_steps=3), pcc=0.9999, rel_rmse=0.008)

    def test_awkward_config(self, board):
        """Dims of state and actions and a horizon that are no whole tiles; heads that are."""
        config = replace(
            TINY,
            vision=replace(TINY.vision, hidden_size=64, num_attention_heads=2, num_hidden_layers=1),
            state_dim=20,
            action_dim=7,
            horizon=33,
        )
        weights, inputs = random_weights(config), random_inputs(config, 1, 7)
        noise = torch.randn(1, 33, 7, generator=torch.Generator().manual_seed(0))
        got = PI0ModelTTNN(config, weights, board.device, precision="accurate").sample_actions(
            **inputs, noise=noise, num_steps=2
        )
        want = PI0ModelTorch(config, weights).sample_actions(**inputs, noise=noise, num_steps=2)
        assert_quality(got, want, pcc=0.9999, rel_rmse=0.01)

    def test_nothing_to_attend_to(self, exact):
        with pytest.raises(ValueError, match="camera or a prompt"):
            exact.sample_actions(**random_inputs(TINY, 0, 0))


class TestIdentities:
    def test_elided_is_masked(self, exact, inputs, chunk):
        """What absent cameras show and what stands in the padding of a prompt moves nothing."""
        generator = torch.Generator().manual_seed(9)
        other = {
            **inputs,
            "images": [
                torch.where(mask[:, None, None, None], image, torch.randn(image.shape, generator=generator))
                for image, mask in zip(inputs["images"], inputs["img_masks"], strict=True)
            ],
            "lang_tokens": torch.where(
                inputs["lang_masks"],
                inputs["lang_tokens"],
                torch.randint(0, TINY.vocab_size, (2, 48), generator=generator),
            ),
        }
        assert torch.equal(exact.sample_actions(**other, noise=make_noise(), num_steps=2), chunk)

    def test_padded_is_unpadded(self, exact, inputs, chunk, monkeypatch):
        """What stands in the rows that fill up a tile of the prompt, of the state and of the actions moves nothing."""

        def dirty(x, size, value=0.0):
            return torch.nn.functional.pad(x, (0, 0, 0, size - x.shape[-2]), value=7.0)

        def dirty_tokens(x, size, value=0.0):
            is_prompt = not x.is_floating_point()
            return torch.nn.functional.pad(x, (0, size - x.shape[-1]), value=7 if is_prompt else 0.0)

        monkeypatch.setattr(exact.chips[0], "contexts", Contexts(exact.backbone, None))
        monkeypatch.setattr(uploads, "pad_rows", dirty)
        monkeypatch.setattr(uploads, "pad_columns", dirty_tokens)
        assert torch.equal(exact.sample_actions(**inputs, noise=make_noise(), num_steps=2), chunk)

    def test_rows_are_apart(self, exact, inputs, chunk):
        for row in range(2):
            alone = exact.sample_actions(**only_row(inputs, row), noise=make_noise()[row : row + 1], num_steps=2)
            assert torch.equal(alone[0], chunk[row])

    def test_calls_are_apart(self, exact, inputs, chunk):
        """What a former call left in the static caches moves nothing."""
        exact.sample_actions(**random_inputs(TINY, 2, 30, batch=2, seed=8), num_steps=1)
        exact.sample_actions(**random_inputs(TINY, 1, 30, batch=2, seed=8), num_steps=1)
        assert torch.equal(exact.sample_actions(**inputs, noise=make_noise(), num_steps=2), chunk)

    def test_the_state_sees_neither_time_nor_actions(self, exact, inputs):
        """Its keys and values are the same in each step, to the bit; those of the first action are not."""
        row = upload_row(exact, inputs, 0, make_noise())
        prefix, first = prefilled(exact, row), row.context.layout[-1].start

        def kept(token: int) -> list[torch.Tensor]:
            return [tokens_of(x, token, 1) for cache in prefix.caches for x in (cache.keys, cache.values)]

        seen = []
        for x_t, step in zip((make_noise()[0], make_noise(seed=4)[0]), exact.chips[0].steps(schedule(2)), strict=True):
            exact.chips[0].graph.velocity(up_actions(exact, x_t), step, prefix)
            seen.append((kept(first), kept(first + 1)))
        (state, action), (state_again, other_action) = seen
        assert all(map(torch.equal, state, state_again))
        assert not any(map(torch.equal, action, other_action))

    def test_constant_velocity(self, exact, inputs, monkeypatch):
        """x_t and the Euler update are float32: a bfloat16 x_t would be off by 4e-3."""
        constant = torch.randn(1, 1, 64, 32, generator=torch.Generator().manual_seed(2))
        on_device = ttnn.from_torch(constant, dtype=ttnn.float32, layout=ttnn.TILE_LAYOUT, device=exact.chips[0].device)
        monkeypatch.setattr(exact.suffix_embedding, "velocity", lambda _: on_device)
        got = exact.sample_actions(**only_row(inputs, 0), noise=make_noise(batch=1), num_steps=10)
        torch.testing.assert_close(got, make_noise(batch=1) - constant[0, :, 1:51], rtol=0, atol=2e-6)

    def test_mask_hides_all_padding(self, exact, inputs):
        """One prompt of 10 tokens, the state, 50 actions: which keys each query sees."""
        context = upload_row(exact, inputs, 0, make_noise()).context
        images = sum(bool(mask[0]) for mask in inputs["img_masks"])
        prompt, (_, state) = images * 256, (block.start for block in context.blocks)
        assert prompt + 32 == state
        prefix = set(range(prompt + 10))
        all_real = prefix | set(range(state, state + 51))
        seen = [prefix] * state, [prefix | {state}, *[all_real] * 63]
        for block, keys in zip(context.blocks, seen, strict=True):
            mask = ttnn.to_torch(block.mask).float()[0, 0]
            assert mask.shape[1] == cache_length(context.layout)
            assert mask.isfinite().all()
            assert [set(torch.nonzero(query > -1.0).flatten().tolist()) for query in mask] == keys


class TestCalls:
    def test_noise_is_fresh(self, exact, inputs):
        one = only_row(inputs, 0)
        first, second = (exact.sample_actions(**one, num_steps=1) for _ in range(2))
        assert not torch.equal(first, second)
        seeded = [
            exact.sample_actions(**one, num_steps=1, generator=torch.Generator().manual_seed(4)) for _ in range(2)
        ]
        assert torch.equal(*seeded)

    @pytest.mark.parametrize("batch", [1, 2])
    def test_transfers(self, board, exact, inputs, batch):
        """What is new goes up before a row runs, and comes down once, however many steps there are."""
        inputs = inputs if batch == 2 else only_row(inputs, 0)
        exact.sample_actions(**inputs, noise=make_noise(batch), num_steps=3)
        with board.record() as counts:
            exact.sample_actions(**inputs, noise=make_noise(batch), num_steps=3)
        assert counts.uploads.count == UPLOADS_PER_ROW * batch
        cameras = sum(int(mask.sum()) for mask in inputs["img_masks"])
        assert counts.uploads.bytes == cameras * 256 * 608 * 2 + batch * (64 * 32 + 64 * 32) * 4
        assert counts.readbacks.count == 1
        assert counts.readbacks.bytes == batch * 64 * 32 * 4

    def test_operations_per_step(self, board, exact, inputs):
        one, noise = only_row(inputs, 0), make_noise(batch=1)
        totals = []
        for steps in (2, 3):
            exact.sample_actions(**one, noise=noise, num_steps=steps)
            with board.record() as counts:
                exact.sample_actions(**one, noise=noise, num_steps=steps)
            totals.append(sum(counts.operations.values()))
        # 8 device operations for each expert layer and what five of them have allocated for them; embedding 3; last norm,
        # velocity, Euler 3.
        assert totals[1] - totals[0] == 13 * TINY.expert.depth + 6

    def test_describe(self, exact):
        described = exact.describe()
        assert described["parts"] == {
            "backbone": "PaliGemmaBackboneTTNN",
            "vision_tower": "SigLIPVisionTowerTTNN",
            "multi_modal_projector": "MultiModalProjectorTTNN",
            "suffix_embedding": "SuffixEmbeddingTTNN",
        }
        assert described["precision"]["preset"] == "accurate"
        assert described["weight_bytes"]["embed_tokens"] == TINY.vocab_size * TINY.vlm.width * 2
        assert all(size > 0 for size in described["weight_bytes"].values())

    def test_an_observation_or_its_parts(self, exact, inputs, chunk):
        observation = Observation(**inputs)
        call = {"noise": make_noise(), "num_steps": 2}
        assert torch.equal(exact.sample_actions(observation, **call), chunk)
        assert torch.equal(exact.sample_actions(*inputs.values(), **call), chunk)
        with pytest.raises(TypeError, match="state"):
            exact.sample_actions(*list(inputs.values())[:4], **call)

    def test_unknown_precision(self, board):
        with pytest.raises(ValueError, match="accurate, balanced, fast"):
            PI0ModelTTNN(TINY, {}, board.device, precision="best")

    def test_incomplete_weights(self, board):
        with pytest.raises(ValueError, match=r"missing action_in_proj\.bias"):
            PI0ModelTTNN(TINY, {}, board.device)


def test_velocity_is_float32(exact, inputs):
    noise = upload_row(exact, inputs, 0, make_noise()).inputs.noise
    assert noise.dtype == ttnn.float32
    assert actions_of(exact, noise).equal(make_noise()[0])
