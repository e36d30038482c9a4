"""What every golden carries: the script and the versions that made it. Writes files; computes nothing."""

import json
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ["torch", "transformers", "tokenizers", "gguf", "safetensors", "numpy", "jinja2", "llama-cpp-python"]


def versions(*packages, **extra):
    """Versions of the named packages (all of PACKAGES that are installed by default), with Python's own."""
    found = {"python": platform.python_version()}
    for name in packages or PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if packages:
                raise
    found.update({k: v for k, v in extra.items() if v is not None})
    return found


def stamp(script, found):
    """The two metadata entries of a safetensors golden; safetensors metadata holds strings only."""
    return {"script": script, "versions": json.dumps(found, sort_keys=True)}


def write_json(path, value):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_json_rows(path, value):
    """JSON with one line per key, and per element of a list of objects: small, and a diff shows the case that changed."""
    def rows(entry):
        if isinstance(entry, list) and entry and isinstance(entry[0], dict):
            return "[\n" + ",\n".join("  " + json.dumps(e, ensure_ascii=False) for e in entry) + "\n ]"
        return json.dumps(entry, ensure_ascii=False)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f" {json.dumps(k)}: {rows(v)}" for k, v in value.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def write_safetensors(path, tensors, metadata):
    """Like safetensors.numpy.save_file, but the same tensors always give the same bytes: metadata keys are sorted."""
    import numpy as np

    names = {"float32": "F32", "float16": "F16", "float64": "F64", "uint8": "U8", "int64": "I64", "int32": "I32"}
    header, body = {"__metadata__": dict(sorted(metadata.items()))}, []
    offset = 0
    # Widest first, so that every tensor stays aligned to its own element size (what safetensors itself does).
    for name in sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n)):
        data = np.ascontiguousarray(tensors[name])
        raw = data.tobytes()
        header[name] = {
            "dtype": names[data.dtype.name],
            "shape": list(data.shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        body.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(body))
