# Sourced by the recipes' run.sh, finetune.sh and decode_ctc.sh: sorts their options.
#
#   sort_options OWN DATA SCRIPT "$@"
#     OWN     names of options that become variables of the same name
#     DATA    names of options that are gathered in data_opts, for local/data.sh
#             (a name may be in both); regular expressions
#     SCRIPT  what all other options are for; they are gathered in opts. Its help, if it
#             is not "", follows that of the caller, which is the comment at its head.
sort_options() {
    local own=" $1 " data="^(${2// /|})\$" script=$3 name taken
    shift 3
    data_opts=() opts=()
    while [ $# -gt 0 ]; do
        case "$1" in
            --help|-h)
                sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
                [ -z "${script}" ] || exec "${script}" --help
                exit 0 ;;
            --*) ;;
            *) echo "$0: error: no positional arguments are taken, got '$1'" >&2; exit 1 ;;
        esac
        [ $# -ge 2 ] || { echo "$0: error: option $1 wants a value" >&2; exit 1; }
        name=${1#--} name=${name//-/_} taken=false
        if [[ ${own} == *" ${name} "* ]]; then printf -v "${name}" %s "$2"; taken=true; fi
        if [[ ${name} =~ ${data} ]]; then data_opts+=("$1" "$2"); taken=true; fi
        "${taken}" || opts+=("$1" "$2")
        shift 2
    done
}
