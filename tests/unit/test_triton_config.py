from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from shitu_models.specs import DEMO_DET, DEMO_REC, SPECS
from shitu_models.triton_config import CONFIG_FILE, TritonConfigOptions, render, write_configs

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"


def parsed(text: str) -> model_config_pb2.ModelConfig:
    """Parse as Triton does: an unknown field is an error."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("name", ["demo_det", "demo_rec"])
def test_committed_file_is_what_the_specification_renders(name):
    committed = (REPOSITORY / name / CONFIG_FILE).read_text(encoding="utf-8")
    assert committed == render(SPECS[name]), "run `python -m shitu_models.triton_config`"


def test_tensors_follow_the_specification():
    config = parsed(render(DEMO_DET))
    assert (config.name, config.backend, config.max_batch_size) == ("demo_det", "onnxruntime", 16)
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [
        ("pixels", model_config_pb2.TYPE_UINT8, [320, 320, 3])
    ]
    assert [(one.name, one.data_type, list(one.dims)) for one in config.output] == [
        ("det_boxes", model_config_pb2.TYPE_FP32, [100, 4]),
        ("det_scores", model_config_pb2.TYPE_FP32, [100]),
    ]


def test_batches_without_a_queue_policy_and_without_a_kind_of_instance():
    config = parsed(render(DEMO_REC))
    assert config.dynamic_batching.max_queue_delay_microseconds == 1000
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert not config.dynamic_batching.priority_queue_policy
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_AUTO]


def test_warms_up_with_one_picture_and_with_a_full_batch():
    warmups = parsed(render(DEMO_REC)).model_warmup
    assert [warmup.batch_size for warmup in warmups] == [1, 32]
    assert all(warmup.inputs["pixels"].zero_data for warmup in warmups)
    assert all(list(warmup.inputs["pixels"].dims) == [128, 128, 3] for warmup in warmups)


def test_options_reach_the_file():
    config = parsed(
        render(DEMO_REC, TritonConfigOptions(instance_count=2, intra_op_threads=3, max_queue_delay_us=1500))
    )
    assert config.instance_group[0].count == 2
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert config.parameters["session.intra_op.allow_spinning"].string_value == "0"
    assert config.dynamic_batching.max_queue_delay_microseconds == 1500


@pytest.mark.parametrize("wrong", [{"instance_count": 0}, {"intra_op_threads": -1}, {"max_queue_delay_us": -1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TritonConfigOptions(**wrong)


def test_writes_one_file_for_each_model(tmp_path):
    paths = write_configs(tmp_path)
    assert paths == [tmp_path / name / CONFIG_FILE for name in ("demo_det", "demo_rec")]
    assert paths[0].read_text(encoding="utf-8") == render(DEMO_DET)
