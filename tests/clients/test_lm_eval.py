"""lm-eval's `local-completions` on a local task: its log-likelihoods are those that the server gives for each text alone."""

import json
import os
import pathlib

import lm_eval
import openai
import pytest
from lm_eval.tasks import TaskManager

HERE = pathlib.Path(__file__).parent
URL = os.environ["QERN_URL"]
MODEL = os.environ["QERN_MODEL_NAME"]


def test_log_likelihoods_are_the_servers_own(tmp_path, monkeypatch):
    # lm-eval takes the key from here, and data sets must come from the folder alone.
    monkeypatch.setenv("OPENAI_API_KEY", os.environ["QERN_KEY"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    task = (HERE / "tasks" / "capitals.yaml").read_text().replace("CAPITALS_FILE", str(HERE / "tasks" / "capitals.jsonl"))
    (tmp_path / "capitals.yaml").write_text(task)
    arguments = {
        "model": MODEL,
        "base_url": f"{URL}/v1/completions",
        "tokenizer_backend": "remote",
        "auth_token": os.environ["QERN_KEY"],
        "num_concurrent": 2,
        "max_retries": 1,
    }
    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=arguments,
        tasks=["qern_capitals"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    assert results["results"]["qern_capitals"]["acc,none"] >= 0.75

    client = openai.OpenAI(base_url=f"{URL}/v1", api_key=os.environ["QERN_KEY"])

    def tokens(text):
        answer = client.post(f"{URL}/tokenize", body={"prompt": text, "add_special_tokens": False}, cast_to=object)
        return answer["tokens"]

    for sample in results["samples"]["qern_capitals"]:
        for (context, continuation), (loglikelihood, _greedy) in zip(
            (request.values() for request in sample["arguments"].values())
            if isinstance(sample["arguments"], dict)
            else sample["arguments"],
            (response[0] for response in sample["resps"]),
            strict=True,
        ):
            whole = tokens(context + continuation)
            answer = client.completions.create(model=MODEL, prompt=whole, max_tokens=0, echo=True, logprobs=1)
            scored = answer.choices[0].logprobs.token_logprobs[len(tokens(context)) :]
            assert float(loglikelihood) == pytest.approx(sum(scored), abs=1e-9), json.dumps(sample["doc"])
