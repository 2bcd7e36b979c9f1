"""What a step costs in floating-point work, as benchmarks/flops.py counts it."""

from benchmarks.flops import Models, count


def test_a_sampling_step_costs_no_more_than_the_method_needs():
    models = Models(512, cross_attention=False)
    plain = count(models.plain)
    assert count(models.subject) / plain < 1.80
    assert count(models.conditional) / plain < 1.41
    assert count(Models(512).subject) / plain < 1.85


def test_training_computes_no_weight_gradients_of_the_frozen_base():
    """3.76 TFLOP with them left out; all of the base's would add its 0.8 again."""
    assert count(Models(512).train) < 3.80
