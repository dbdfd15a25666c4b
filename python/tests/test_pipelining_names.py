"""The private names of torch that Stage stands on: what is gone is named, an untested release warns."""

import pytest
import torch
from torch.distributed.pipelining import stage

from resbm.torch import _pipelining


def test_this_release_is_one_of_those_tested_and_nothing_is_missing():
    assert torch.__version__.split("+")[0] in _pipelining.TESTED
    assert _pipelining.missing() == []
    _pipelining.check()


def test_what_is_gone_is_named(monkeypatch):
    monkeypatch.delattr(stage._PipelineStageBase, "get_bwd_send_ops")
    monkeypatch.setattr(stage._PipelineStageBase, "set_local_fwd_input", lambda self, outputs: None)
    monkeypatch.delattr(stage.PipelineStage, "_warmup_forward_vote")
    monkeypatch.delattr(stage, "_RecvInfo")
    with pytest.raises(ImportError) as e:
        _pipelining.check()
    said = str(e.value)
    assert "_PipelineStageBase.get_bwd_send_ops" in said and "set_local_fwd_input(mb_index)" in said
    assert "PipelineStage._warmup_forward_vote" in said
    assert "_RecvInfo" in said and "tested with torch 2.13.0" in said and "resbm.torch.hooks" in said


def test_another_release_with_all_the_names_warns(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.14.0+cpu")
    with pytest.warns(UserWarning, match=r"tested with torch 2\.13\.0, this is 2\.14\.0"):
        _pipelining.check()
