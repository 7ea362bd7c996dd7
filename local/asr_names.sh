# shellcheck shell=bash
# shellcheck disable=SC2034  # the variables are those of finetune.sh
# Sourced by finetune.sh and self_train.sh, to check what asr.sh has made and is about to use.

# Defaults of options on which a fine-tuned model depends; some are not those of asr.sh.
asr_defaults="token_type=bpe nbpe=30 bpemode=unigram lang=noinfo cleaner=none g2p=none"
asr_defaults+=" asr_speech_fold_length=800 asr_text_fold_length=150 num_splits_asr=1"
for _name in ${asr_defaults}; do printf -v "${_name%%=*}" %s "${_name#*=}"; done

# Sets changed: arguments of espnet2_birq.bin.stamp for those of the given options that differ
# from their defaults. Records from before an option was recorded then remain valid.
changed_options() {
    local name
    changed=()
    for name in "$@"; do
        [[ " ${asr_defaults} " = *" ${name}=${!name} "* ]] ||
            changed+=(--setting "${name}=${!name}")
    done
}

# Sets stats (the folder with the lengths of all utterances), tokens (the one with the units)
# and inference_tag as asr.sh does from the same options, unless they are given.
asr_names() {
    local language='' units=${token_type} lm=${lm_tag}
    if [ "${lang}" != noinfo ]; then language=${lang}_; fi
    if [ "${token_type}" = bpe ]; then units+=${nbpe}; fi
    stats=${asr_stats_dir:-${expdir}/asr_stats_raw_${language}${units}${trained#"${train_set}"}}
    tokens=data/${language}token_list/${token_type}
    if [ "${token_type}" = bpe ]; then tokens+=_${bpemode}${nbpe}; fi
    if [ -n "${inference_tag}" ]; then return; fi
    if "${greedy_ctc}"; then
        inference_tag=greedy_ctc_${inference_asr_model%.*}
        return
    fi
    inference_tag=$(basename "${inference_config:-inference}" .yaml)
    inference_tag+=$(sed 's/--/_/g; s/[ |=]//g' <<< "${inference_args}")
    if "${use_lm}"; then
        if [ -z "${lm}" ]; then
            lm=$(basename "${lm_config:-train}" .yaml)_${language}${units}
            lm+=$(sed 's/--/_/g; s/[ |=/]//g' <<< "${lm_args}")
        fi
        inference_tag+=_lm_$(basename "${lm_exp:-lm_${lm}}")_$(without_suffix "${inference_lm}")
    fi
    if "${use_ngram}"; then
        inference_tag+=_ngram_$(basename "${ngram_exp:-ngram}")
        inference_tag+=_$(without_suffix "${inference_ngram}")
    fi
    inference_tag+=_asr_model_$(without_suffix "${inference_asr_model}")
    if "${use_k2}"; then
        inference_tag+=_use_k2_k2_ctc_decoding_${k2_ctc_decoding}
        inference_tag+=_use_nbest_rescoring_${use_nbest_rescoring}
    fi
}
without_suffix() { sed 's/\//_/g; s/\.[^.]*$//' <<< "$1"; }
