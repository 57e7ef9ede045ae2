"""Checks of the oracle against published facts, torch's own operators and closed forms. Run by `oracle.py selftest`."""
import math

import numpy as np
import torch
import torch.nn.functional as F

import oracle
from oracle import Diffusion, Spec

PARAMETERS = {"S": (33148160, 32945024, 32963360), "B": (130881536, 130475648, 130512416),
              "L": (458594816, 458053760, 458102816), "XL": (675683072, 675074432, 675129632)}
XL2_MILLIONS = {"IN_CONTEXT": 449, "CROSS_ATTENTION": 598, "ADALN": 600, "ADALN_ZERO": 675}


def sized(size, patch, conditioning="ADALN_ZERO"):
    depth, width, heads = oracle.SIZES[size]
    return Spec(conditioning, depth, width, heads, patch, channels=4, side=32, classes=1000)


def count(spec):
    return sum(int(np.prod(shape)) for shape in oracle.parameter_shapes(spec).values())


def close(value, expected, tolerance):
    assert abs(value - expected) <= tolerance, f"{value} is not within {tolerance} of {expected}"


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def test_parameter_counts():
    for size, totals in PARAMETERS.items():
        for patch, total in zip((8, 4, 2), totals):
            assert count(sized(size, patch)) == total, (size, patch)
    for conditioning, millions in XL2_MILLIONS.items():
        total = count(sized("XL", 2, conditioning)) / 1e6
        assert millions in (math.floor(total), round(total)), (conditioning, total)
    assert len(oracle.parameter_shapes(sized("XL", 2))) == 292


def test_position_table_runs_along_columns_first():
    table = oracle.position_table(Spec(width=8, side=6, patch=2))[0]
    assert table.shape == (9, 8)
    np.testing.assert_allclose(table[1], [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01), 0, 0, 1, 1])
    np.testing.assert_allclose(table[3], [0, 0, 1, 1, math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)])


def test_timestep_features_are_cosine_first():
    features = oracle.timestep_features(torch.tensor([0, 7]))
    assert features.shape == (2, 256) and bool((features[0, :128] == 1).all()) and bool((features[0, 128:] == 0).all())
    close(float(features[1, 0]), math.cos(7), 1e-15)
    close(float(features[1, 128 + 64]), math.sin(7 * 0.01), 1e-15)


def test_tables():
    d = Diffusion(Spec())
    close(float(d.alpha_bar[0]), 0.9999, 1e-12)
    close(float(d.alpha_bar[999]), 4.0358e-5, 5e-10)
    close(float(d.posterior_log_variance[0]), -9.8167, 5e-5)
    assert d.posterior_log_variance[0] == d.posterior_log_variance[1]
    cosine = Diffusion(Spec(schedule="COSINE"))
    curve = [math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (0.5, 0)]
    close(float(cosine.alpha_bar[499]), curve[0] / curve[1], 1e-12)
    close(math.exp(float(cosine.log_beta[999])), 0.999, 1e-12)


def test_respacing():
    kept = oracle.kept_steps(1000, 250)
    assert len(set(kept)) == 250 and kept[0] == 0 and kept[-1] == 999
    assert kept == [round(i * 333 / 83) for i in range(250)]
    assert oracle.kept_steps(6, 3) == [0, 2, 5], "2.5 rounds to even"
    full, respaced = Diffusion(Spec()), Diffusion(Spec(), kept)
    assert torch.equal(respaced.alpha_bar, full.alpha_bar[kept])
    rebuilt = torch.cumprod(1 - torch.exp(respaced.log_beta), 0)
    assert torch.allclose(rebuilt, respaced.alpha_bar, rtol=1e-12)


def test_targets_invert():
    for schedule in ("LINEAR", "COSINE"):
        for prediction in ("EPSILON", "X0", "V"):
            d = Diffusion(Spec(schedule=schedule, prediction=prediction))
            x0, noise, index = normal(3, 4, 8, 8, seed=1), normal(3, 4, 8, 8, seed=2), torch.tensor([0, 500, 990])
            x_t = d.noised(x0, noise, index)
            assert torch.allclose(d.predicted_x0(d.target(x0, noise, index), x_t, index), x0, rtol=0, atol=1e-9)


def test_kl_against_torch():
    a, b, c, d = (normal(5, seed=s) for s in range(4))
    both = [torch.distributions.Normal(m, torch.exp(0.5 * v)) for m, v in ((a, b), (c, d))]
    assert torch.allclose(oracle.normal_kl(a, b, c, d), torch.distributions.kl_divergence(*both), rtol=1e-12)


def test_nll_against_plain_formula():
    x = torch.linspace(-1.2, 1.2, 4001, dtype=torch.float64)
    mean, log_variance = 0.9 * x + 0.01, torch.full_like(x, -4.0)
    cdf = lambda z: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z ** 3)))
    std = torch.exp(0.5 * log_variance)
    upper, lower = cdf((x - mean + 1 / 255) / std), cdf((x - mean - 1 / 255) / std)
    plain = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    assert torch.allclose(oracle.discretised_nll(x, mean, log_variance), -torch.log(plain), rtol=1e-11)
    far = oracle.discretised_nll(torch.tensor([0.0, 1.5]), torch.tensor([3.0, -40.0]), torch.tensor([-9.0, -9.0]))
    assert torch.allclose(far, torch.full((2,), -math.log(1e-12)), rtol=1e-6), "probabilities are clamped at 1e-12"


def test_operators_against_torch():
    x, p = normal(2, 5, 16), {"n.weight": normal(16, seed=3), "n.bias": normal(16, seed=4)}
    assert torch.allclose(oracle._gelu(x), F.gelu(x, approximate="tanh"), atol=1e-14)
    assert torch.allclose(oracle._affine_norm(p, "n", x), F.layer_norm(x, (16,), p["n.weight"], p["n.bias"], 1e-6))
    spec = Spec(width=12, heads=2, side=6, depth=0, channels=3)
    p = oracle.to_parameters(oracle.random_weights(spec, np.random.default_rng(5)), torch.float64)
    images, taps = normal(2, 3, 6, 6), {}
    output = oracle.forward(spec, p, images, torch.tensor([1, 2]), torch.tensor([0, 10]), taps)
    convolved = F.conv2d(images, p["x_embedder.proj.weight"], p["x_embedder.proj.bias"], stride=2)
    assert torch.allclose(taps["embedding"], convolved.flatten(2).transpose(1, 2) + p["pos_embed"], atol=1e-12)
    assert output.shape == (2, 6, 6, 6)


def test_attention_against_torch():
    x, heads = normal(2, 7, 12), 3
    weight, bias = normal(36, 12, seed=1), normal(36, seed=2)
    p = {"a.qkv.weight": weight, "a.qkv.bias": bias,
         "a.proj.weight": normal(12, 12, seed=3), "a.proj.bias": normal(12, seed=4)}
    z = x.transpose(0, 1)
    expected, _ = F.multi_head_attention_forward(z, z, z, 12, heads, weight, bias, None, None, False, 0.0,
                                                 p["a.proj.weight"], p["a.proj.bias"])
    assert torch.allclose(oracle._self_attention(p, "a", x, heads), expected.transpose(0, 1), atol=1e-12)


def test_unpatchify_orders_row_column_channel():
    spec = Spec(width=16, depth=0, side=4, patch=2, channels=1)
    weights = {name: np.zeros(shape, np.float32) for name, shape in oracle.parameter_shapes(spec).items()}
    weights["final_layer.linear.bias"] = np.arange(8, dtype=np.float32)
    p = oracle.to_parameters(weights, torch.float64)
    output = oracle.forward(spec, p, normal(1, 1, 4, 4), torch.tensor([3]), torch.tensor([0]))
    assert output[0, 0, :2, :2].tolist() == [[0, 2], [4, 6]] and output[0, 1, 2:, 2:].tolist() == [[1, 3], [5, 7]]


def initial_weights(spec):
    """Random weights with those parameters zeroed that training starts from zero."""
    weights = oracle.random_weights(spec, np.random.default_rng(6))
    for name in weights:
        if "adaLN" in name or name.startswith("final_layer.linear") or name.endswith("bias"):
            weights[name][:] = 0
    return weights


def test_step_zero():
    for conditioning in oracle.DESIGNS:
        spec = Spec(conditioning)
        inputs = oracle.random_inputs(spec, np.random.default_rng(7), 8)
        results, _ = oracle.parity(spec, initial_weights(spec), inputs)
        assert not results["output"].any()
        close(float(results["mse"][0]), 1.0, 0.1)
        moved = {name for name, value in results.items() if name.startswith("grad.") and value.any()}
        assert moved == {"grad.final_layer.linear.weight", "grad.final_layer.linear.bias"}, (conditioning, moved)


def test_vb_leaves_prediction_alone():
    spec = Spec()
    x0, noise, output = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1), normal(2, 8, 8, 8, seed=2).requires_grad_()
    d, index = Diffusion(spec), torch.tensor([0, 700])
    d.losses(output, x0, d.noised(x0, noise, index), noise, index)[2].backward()
    assert not output.grad[:, :4].any() and output.grad[:, 4:].any()


def test_fp32_agrees_with_fp64():
    for conditioning in oracle.DESIGNS:
        spec, rng = Spec(conditioning, channels=3, side=6), np.random.default_rng(8)
        weights, inputs = oracle.random_weights(spec, rng), oracle.random_inputs(spec, rng, 4)
        exact, rounded = (oracle.parity(spec, weights, inputs, dtype)[0] for dtype in (torch.float64, torch.float32))
        worst = max(oracle.relative_error(rounded[name], exact[name]) for name in exact)
        assert worst < 2e-5, (conditioning, worst)


def test_training_against_torch():
    spec, rng = Spec(width=8, side=4), np.random.default_rng(9)
    weights, inputs = oracle.random_weights(spec, rng), oracle.random_inputs(spec, rng, 2, lead=(3,))
    options = oracle.Optimizer(weight_decay=0.1, clip_norm=1.0)
    history, final, _ = oracle.train(spec, weights, inputs, options)
    p = oracle.to_parameters(weights, torch.float64)
    trainable = [value for value in p.values() if value.requires_grad]
    adam = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.1)
    for step in range(3):
        adam.zero_grad()
        x0, noise, t, y = (torch.tensor(inputs[name][step]) for name in ("x", "noise", "t", "y"))
        loss = oracle.loss_of(spec, Diffusion(spec), p, x0.double(), noise.double(), t, y)[1]
        close(loss.item(), history["loss"][step], 1e-6)
        loss.backward()
        close(float(torch.nn.utils.clip_grad_norm_(trainable, 1.0)), history["grad_norm"][step], 1e-5)
        adam.step()
    assert max(oracle.relative_error(p[name].detach(), final[name]) for name in p) < 1e-5


def test_ddim_with_full_noise_is_ddpm():
    d = Diffusion(Spec(learn_sigma=False), oracle.kept_steps(1000, 20))
    index, output = torch.tensor([7, 3]), normal(2, 4, 8, 8)
    x, noise = normal(2, 4, 8, 8, seed=1), normal(2, 4, 8, 8, seed=2)
    x0 = d.predicted_x0(output, x, index)
    posterior = torch.exp(0.5 * d.at(d.posterior_log_variance, index))
    ddpm = d.mean(x0, x, index) + posterior * noise
    assert torch.allclose(oracle._ddim_step(d, output, x0, x, noise, index, 1.0), ddpm, rtol=1e-9, atol=1e-9)


def test_guidance():
    spec, rng = Spec(depth=1), np.random.default_rng(10)
    weights, shape = oracle.random_weights(spec, rng), (2, 4, 8, 8)
    latent, noise, y = rng.standard_normal(shape), rng.standard_normal((3,) + shape), np.array([1, 4])
    run = lambda **options: oracle.sample(spec, weights, latent, noise, y, **options)
    plain, all_channels, three = run(), run(cfg_scale=1.5), run(cfg_scale=1.5, cfg_channels=3)
    assert np.array_equal(plain[0][:, 3], three[0][:, 3]) and not np.array_equal(plain[0][:, :3], three[0][:, :3])
    assert np.array_equal(all_channels[0][:, :3], three[0][:, :3]) and not np.array_equal(all_channels[0], three[0])


def test_config_round_trip():
    spec = Spec("IN_CONTEXT", 3, 24, 3, 1, 2, 5, 7, False, "COSINE", "V")
    assert Spec.parse(spec.textproto()) == spec


def main():
    tests = {name: test for name, test in globals().items() if name.startswith("test_")}
    failures = 0
    for name, test in tests.items():
        try:
            test()
        except AssertionError as error:
            failures += 1
            print(f"FAILED {name}: {error}")
    print(f"{len(tests) - failures} of {len(tests)} checks passed (torch {torch.__version__})")
    return 1 if failures else 0
