"""``python -m lib_attn.lab``"""

from lib_attn.lab.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
