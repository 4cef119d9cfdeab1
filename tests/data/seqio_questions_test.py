"""Tests of famjax.data.seqio_questions: seqio's own Evaluator scores the tasks that ask."""

import numpy as np
import pytest

from famjax.data import registry
from famjax.data.tasks import generates_answers
from prose import Asking


@pytest.fixture
def asking(tmp_path):
    """Tasks over a small corpus, registered with seqio for one test."""
    from famjax.data import seqio_tasks

    asking = Asking(tmp_path)
    seqio_tasks.register_tasks(asking.tasks)
    yield asking
    seqio_tasks.register_tasks()


def test_every_task_that_asks_is_registered():
    """Guards against a task that seqio cannot evaluate, or a second form of one that asks nothing."""
    import seqio

    import famjax.data.seqio_tasks

    for name, config in registry.BUILT_IN.items():
        assert (f"{name}_eval" in seqio.TaskRegistry.names()) == generates_answers(config)
        assert famjax.data.seqio_tasks.is_famjax_task(name)
        assert not famjax.data.seqio_tasks.is_famjax_task(f"{name}_eval")
    assert "ruler_vt_eval" in seqio.TaskRegistry.names()


@pytest.mark.parametrize("name", ["passkey", "ruler_niah_multivalue", "babilong_qa2"])
def test_the_questions_are_famjaxs(asking, name):
    """Guards against prompts, answers or references that differ from famjax's own, and prompts that seqio cuts."""
    import seqio

    lengths = {"inputs": 3000, "targets": 200}
    dataset = seqio.get_mixture_or_task(f"{name}_eval").get_dataset(lengths, "validation", shuffle=True, seed=5)
    ours = asking(name, 3000, seed=5)
    for index, theirs in enumerate(dataset.take(4).as_numpy_iterator()):
        question, example = ours.question(index), ours[index]
        np.testing.assert_array_equal(theirs["inputs"], question.prompt)
        np.testing.assert_array_equal(theirs["targets"], example.targets[example.answers])
        assert tuple(reference.decode() for reference in theirs["references"]) == question.references


@pytest.mark.parametrize(
    ("name", "metric"), [("ruler_niah_single_2", "string_match_all"), ("babilong_qa4", "babilong")]
)
def test_seqios_evaluator(asking, name, metric):
    """Guards against a form that seqio's Evaluator, and so t5x's, cannot use."""
    import seqio

    evaluator = seqio.Evaluator(
        f"{name}_eval",
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        eval_split="validation",
        sequence_length={"inputs": 2000, "targets": 200},
        num_examples=4,
        use_memory_cache=False,
    )

    def evaluate(predict):
        def model(dataset):
            return [(index, predict(example["decoder_target_tokens"].numpy())) for index, example in dataset]

        metrics, _ = evaluator.evaluate(compute_metrics=True, step=0, predict_fn=model, score_fn=None)
        return {key: float(value) for key, value in metrics.result()[f"{name}_eval"].items()}

    assert evaluate(lambda targets: targets.tolist()) == {metric: 1.0}
    assert evaluate(lambda targets: [70] * len(targets)) == {metric: 0.0}


def test_lengths_that_would_cut(asking):
    """Guards against an answer that has no room in the sequence length, and is scored all the same."""
    import seqio
    import tensorflow as tf

    task = seqio.get_mixture_or_task("ruler_niah_single_2_eval")
    dataset = task.get_dataset({"inputs": 2000, "targets": 20}, "validation", shuffle=False)
    with pytest.raises(tf.errors.OpError, match="budget of 128 tokens; the sequence_length of 'targets' is 20"):
        next(dataset.as_numpy_iterator())
    with pytest.raises(Exception, match="needs a sequence_length for 'inputs'"):
        task.get_dataset({"targets": 20}, "validation", shuffle=False)
