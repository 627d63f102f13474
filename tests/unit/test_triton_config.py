from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from shitu_models.cards import CARD_FILE, ModelCard, Source, write_card
from shitu_models.specs import DEMO_DET, DEMO_REC, SPECS, Precision
from shitu_models.triton_config import (
    CONFIG_FILE,
    PRECISIONS,
    Accelerator,
    TritonConfigOptions,
    main,
    model_config,
    render,
    write_configs,
)

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


@pytest.mark.parametrize(
    ("accelerator", "max_batch", "batches"),
    [
        (Accelerator.NONE, 32, [1, 8]),
        (Accelerator.OPENVINO, 32, [1, 8]),
        (Accelerator.NONE, 4, [1, 4]),
        (Accelerator.NONE, 1, [1]),
        (Accelerator.CUDA, 32, [1, 32]),
        (Accelerator.TENSORRT, 32, [1, 32]),
    ],
)
def test_warms_up_with_one_picture_and_with_a_batch_which_on_a_gpu_is_full(accelerator, max_batch, batches):
    options = TritonConfigOptions(accelerator=accelerator)
    warmups = parsed(render(replace(DEMO_REC, max_batch=max_batch), options)).model_warmup
    assert [warmup.batch_size for warmup in warmups] == batches
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


@pytest.mark.parametrize("accelerator", Accelerator)
@pytest.mark.parametrize("spec", [DEMO_DET, DEMO_REC], ids=lambda spec: spec.name)
def test_the_file_and_the_dictionary_say_the_same(spec, accelerator):
    options = TritonConfigOptions(2, 3, 1500, accelerator)
    from_json = json_format.ParseDict(model_config(spec, options), model_config_pb2.ModelConfig())
    assert parsed(render(spec, options)) == from_json


def test_encoders_keep_their_former_version():
    assert parsed(render(DEMO_REC)).version_policy.latest.num_versions == 2
    assert parsed(render(DEMO_DET)).version_policy.latest.num_versions == 1


@pytest.mark.parametrize(
    ("accelerator", "precision", "field", "expected"),
    [
        (Accelerator.NONE, Precision.FP16, "gpu", []),
        (Accelerator.CUDA, Precision.FP16, "gpu", [("cuda", {"use_tf32": "0"})]),
        (
            Accelerator.TENSORRT,
            Precision.FP32,
            "gpu",
            [("tensorrt", {"precision_mode": "FP32"}), ("cuda", {"use_tf32": "0"})],
        ),
        (
            Accelerator.TENSORRT,
            Precision.FP16,
            "gpu",
            [("tensorrt", {"precision_mode": "FP16"}), ("cuda", {"use_tf32": "0"})],
        ),
        (Accelerator.OPENVINO, Precision.FP32, "cpu", [("openvino", {"inference_precision": "f32"})]),
        (Accelerator.OPENVINO, Precision.BF16, "cpu", [("openvino", {"inference_precision": "bf16"})]),
    ],
)
def test_accelerators_by_precision(accelerator, precision, field, expected):
    config = parsed(render(DEMO_REC, TritonConfigOptions(accelerator=accelerator, precision=precision)))
    accelerators = getattr(config.optimization.execution_accelerators, f"{field}_execution_accelerator")
    assert [(one.name, dict(one.parameters)) for one in accelerators] == expected
    on_gpu = field == "gpu" and bool(expected)
    kind = model_config_pb2.ModelInstanceGroup.KIND_GPU if on_gpu else model_config_pb2.ModelInstanceGroup.KIND_AUTO
    assert config.instance_group[0].kind == kind


def test_a_precision_that_an_accelerator_cannot_run_is_refused():
    assert set(PRECISIONS) == set(Accelerator)
    with pytest.raises(ValueError, match="a bf16 model runs with accelerator openvino, got none; choose"):
        TritonConfigOptions(precision=Precision.BF16)
    with pytest.raises(ValueError, match="a fp16 model runs with accelerator none or cuda or tensorrt, got openvino"):
        TritonConfigOptions(accelerator=Accelerator.OPENVINO, precision=Precision.FP16)


@pytest.mark.parametrize(("processors", "instances", "threads"), [(8, 1, 8), (8, 3, 2), (1, 1, 1), (2, 4, 1)])
def test_a_machine_gives_each_processor_one_thread(processors, instances, threads):
    options = TritonConfigOptions.for_machine(processors, instances)
    assert (options.instance_count, options.intra_op_threads) == (instances, threads)


def place(repository: Path, name: str, precision: Precision, version: int = 1) -> None:
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"weights")
    spec = replace(DEMO_REC, name=name, max_batch=4)
    card = ModelCard(spec, "demo_rec", precision, "0" * 64, Source("layer", {}), 0.0, 1.0)
    write_card(folder / CARD_FILE, card)


def test_the_command_writes_all_placed_models_as_their_cards_say(tmp_path, capsys):
    place(tmp_path, "mine", Precision.FP32)
    place(tmp_path, "half", Precision.FP16)
    main([str(tmp_path), "--instances", "2", "--threads", "3", "--accelerator", "tensorrt"])
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / name / CONFIG_FILE) for name in ("half", "mine")]
    config = parsed((tmp_path / "half" / CONFIG_FILE).read_text())
    assert (config.name, config.max_batch_size, config.instance_group[0].count) == ("half", 4, 2)
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    (tensorrt, _) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert tensorrt.parameters["precision_mode"] == "FP16"
    main([str(tmp_path), "mine"])
    assert not parsed((tmp_path / "mine" / CONFIG_FILE).read_text()).HasField("optimization")
    assert parsed((tmp_path / "half" / CONFIG_FILE).read_text()) == config, "it was not named"


def test_a_model_that_the_accelerator_cannot_run_is_left_unless_it_is_named(tmp_path, capsys):
    place(tmp_path, "bf", Precision.BF16)
    place(tmp_path, "mine", Precision.FP32)
    main([str(tmp_path)])
    left, written = capsys.readouterr().out.splitlines()
    assert left.startswith(
        f"{tmp_path / 'bf' / CONFIG_FILE} is left as it is: a bf16 model runs with accelerator openvino"
    )
    assert written == str(tmp_path / "mine" / CONFIG_FILE)
    assert not (tmp_path / "bf" / CONFIG_FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "unknown model 'nothing'"),
        (["bf"], "model bf: a bf16 model runs with accelerator openvino"),
        (["--accelerator", "openvino"], "invalid choice: 'openvino'"),
        (["--instances", "0"], "instance_count must be 1 or more"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, capsys, arguments, said):
    place(tmp_path, "bf", Precision.BF16)
    with pytest.raises(SystemExit):
        main([str(tmp_path), *arguments])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "bf" / CONFIG_FILE).exists()
