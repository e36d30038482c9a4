"""The table of GGUF `tokenizer.ggml.pre` names, read out of llama.cpp's source. Facts for a tokenizer's author.

    python pretokenizers.py --llama-vocab-cpp llama-vocab.cpp --llama-version X --out goldens/tokenization/pretokenizers.json

For every name: the regular expressions (each splits the pieces that the one before left; what none matches stays a piece),
the expression of the model's own tokenizer.json where llama.cpp had to adapt it, and the flags.
"""

import argparse
import ast
import re
from pathlib import Path

from goldens_io import write_json

# llama.cpp does not run these expressions: unicode.cpp has hand-written splitters, and the text is only a trigger.
CUSTOM = {"KIMI_K2": "hand-written splitter", "AFMOE": "hand-written digit groups"}
STRING = r'"(?:[^"\\]|\\.)*"'


def unquote(literal):
    """A C++ string literal as text; the two languages agree on the escapes used there."""
    return ast.literal_eval(literal)


def regex_table(source):
    body = source[source.index("switch (vocab.get_pre_type())") :]
    body = body[: body.index("std::vector<std::string> regex_exprs")]
    table, names, originals, exprs, byte_encode = {}, [], [], [], True
    for line in body.splitlines():
        line = line.strip()
        if match := re.match(r"case LLAMA_VOCAB_PRE_TYPE_(\w+):", line):
            names.append(match[1])
        elif line.startswith("default:"):
            names.append("DEFAULT")
        elif match := re.match(rf"//\s*(?:original regex from tokenizer.json: )?({STRING})", line):
            originals.append(unquote(match[1]))
        elif match := re.match(rf"({STRING}),?", line):
            exprs.append(unquote(match[1]))
        elif line.startswith("byte_encode = false"):
            byte_encode = False
        elif line.startswith("break;"):
            for name in names:
                table[name] = {"regexes": exprs, "original_regexes": originals, "byte_encode": byte_encode}
            names, originals, exprs, byte_encode = [], [], [], True
    return table


def flag_table(source):
    start = source.index("for now, only BPE models have pre-tokenizers")
    body = source[start : source.index("unknown pre-tokenizer type", start)]
    table = {}
    for branch in re.split(r"\} else if \(", body)[1:]:
        condition, _, actions = branch.partition(") {")
        flags = {"ignore_merges": False, "add_bos": False, "add_sep": False, "clean_spaces": True, "escape_whitespaces": False}
        flags |= {k: v == "true" for k, v in re.findall(r"^\s*(\w+)\s*= (true|false);", actions, re.M) if k in flags}
        kind = re.search(r"LLAMA_VOCAB_PRE_TYPE_(\w+)", actions)[1]
        for name in re.findall(r'tokenizer_pre == "([^"]+)"', condition):
            table[name] = (kind, flags)
    return table


def digits(regexes):
    text = " ".join(regexes)
    if r"\p{N}{1,3}" in text:
        return "runs of up to three, from the left"
    if r"[0-9][0-9][0-9]" in text:
        return "number runs, then ASCII threes from the left"
    if re.search(r"(^|\||\s)\\p\{N\}($|\||\s)", text):
        return "one by one"
    if r" ?\p{N}+" in text:
        return "whole runs, with a space before"
    return "whole runs" if r"\p{N}+" in text else "see the expressions"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-vocab-cpp", type=Path, required=True)
    parser.add_argument("--llama-version", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    source = args.llama_vocab_cpp.read_text(encoding="utf-8")
    regexes, flags = regex_table(source), flag_table(source)
    # Names after the last `else if` carry no regex of their own: they fall to the default.
    table = {}
    for name, (kind, of_name) in flags.items():
        entry = regexes.get(kind, regexes["DEFAULT"])
        table[name] = {
            "llama_cpp_type": kind, "regexes": entry["regexes"], "original_regexes": entry["original_regexes"],
            "digits": digits(entry["regexes"]), "byte_encode": entry["byte_encode"], **of_name,
            "custom": CUSTOM.get(kind),
        }
    notes = [
        "These apply where tokenizer.ggml.model is `gpt2` (byte-level BPE). add_space_prefix is forced off for it.",
        "A missing `pre` means `default`, with a warning; an unknown one is an error.",
        "regexes[i] splits each piece left by regexes[i-1]; text that matches nothing stays as a piece of its own: the "
        "`tokenizers` equivalent is a Sequence of Split(Regex, Isolated), then ByteLevel(use_regex=false) if byte_encode.",
        "Where original_regexes is not empty, prefer it: it is the model's own. llama.cpp's adaptations differ from it outside "
        "ASCII (tekken and gpt-4o: case is told apart for a-z and A-Z only, and combining marks end a word).",
        "The GPT-2 expression here lacks the final |\\s+ of the original: unmatched text being a piece makes them equal.",
        "ignore_merges: a whole piece that is a token is taken as it is, before any merge.",
        "add_bos is what the name implies; tokenizer.ggml.add_bos_token in the file overrides it.",
        "llama.cpp applies no Unicode normalization for any of these; Qwen's tokenizer.json applies NFC first.",
        "clean_spaces concerns detokenization only (spaces before punctuation are removed when the caller asks for it).",
        "A symbol without a token (SmolLM2 lacks 21 byte tokens) is dropped in silence by llama.cpp and by `tokenizers` "
        "with unk_token null.",
        "tokenizer.ggml.model `llama` (SentencePiece: Llama 2, Mistral 7B) has no `pre`: scores order the merges, a space "
        "becomes U+2581, add_space_prefix defaults to true, unknown characters fall back to byte tokens <0xNN>.",
    ]
    write_json(args.out, {
        "script": "reference/pretokenizers.py", "versions": {"llama.cpp": args.llama_version}, "notes": notes, "pre": table,
    })
    print(len(table), "names,", len({v["llama_cpp_type"] for v in table.values()}), "kinds")


if __name__ == "__main__":
    main()
