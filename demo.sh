#!/usr/bin/env bash
# Pictures without a webui: the same seeds without and with each technique, as pairs and a table in the folder out.
#   ./demo.sh                        with the model that comes with the project
#   ./demo.sh --checkpoint FILE      with any Stable Diffusion 1.x file (safetensors)
#   ./demo.sh --ui                   a page on 127.0.0.1 to play with
# Further words go to `python -m lib_attn.lab compare` (or `ui`), for example --prompt "a red cone" --steps 30.
set -uo pipefail

folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mode=compare
words=()
checkpoint=
for word in "$@"; do
    case $word in
        --ui) mode=ui ;;
        --checkpoint | --checkpoint=*)
            checkpoint=given
            words+=("$word")
            ;;
        -h | --help)
            sed -n '2,6s/^# \{0,1\}//p' "$folder/demo.sh"
            exit 0
            ;;
        *) words+=("$word") ;;
    esac
done
if [ -z "$checkpoint" ] && [ ! -f "$folder/lib_attn/lab/model/reference.safetensors" ]; then
    echo "This copy comes without an embedded model: name a Stable Diffusion 1.x file with ./demo.sh --checkpoint FILE." >&2
    exit 2
fi

# A file is named from where the user stands, not from the project's folder.
here=$PWD
for i in "${!words[@]}"; do
    if [ "$i" -gt 0 ] && [ "${words[$((i - 1))]}" = --checkpoint ]; then
        # The name of a model that comes with the project is no file.
        [ -f "$folder/lib_attn/lab/model/${words[$i]}.safetensors" ] && continue
        case ${words[$i]} in /*) ;; *) words[$i]=$here/${words[$i]} ;; esac
    fi
done

. "$folder/requirements/environment.sh"
say "Starting; the first words of the program take some seconds …"
exec "$python" -m lib_attn.lab "$mode" ${words[@]+"${words[@]}"}
