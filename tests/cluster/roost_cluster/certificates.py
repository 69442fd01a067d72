"""The cluster's own certificate authority, a certificate per component, and kubeconfigs that use them (openssl)."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from roost_cluster.errors import ClusterError
from roost_cluster.layout import NODE, Layout

DAYS = "30"
CLIENTS: Mapping[str, str] = {
    "admin": "/O=system:masters/CN=admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
    "proxy": "/CN=system:kube-proxy",
    "coredns": "/CN=coredns",
    "kuberay": "/CN=kuberay-operator",
}
"""Users with a kubeconfig, and their subjects."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files under `layout.certificates`; elliptic curves, since RSA keys take seconds to make."""

    layout: Layout

    def make(self) -> None:
        """Writes all keys, certificates and kubeconfigs. Raises ClusterError when openssl fails."""
        self.layout.certificates.mkdir(parents=True)
        self._authority()
        self._service_account_key()
        address, service = self.layout.address, self.layout.kubernetes_service
        names = "DNS:localhost,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
        self._issue("apiserver", "/CN=kube-apiserver", f"IP:{address},IP:{service},IP:127.0.0.1,{names}")
        self._issue("kubelet-serving", f"/CN={NODE}", f"IP:{address},DNS:{NODE}")
        self._issue("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client")
        for user, subject in CLIENTS.items():
            self._issue(user, subject)
            self._kubeconfig(user)

    def _authority(self) -> None:
        self._key("ca")
        self._openssl(
            "req", "-x509", "-new", "-key", "ca.key", "-out", "ca.crt", "-days", DAYS, "-subj", "/CN=roost-cluster"
        )

    def _service_account_key(self) -> None:
        self._key("service-account")
        self._openssl("ec", "-in", "service-account.key", "-pubout", "-out", "service-account.pub")

    def _issue(self, name: str, subject: str, alternative_names: str = "") -> None:
        extensions = "extendedKeyUsage=serverAuth,clientAuth\n"
        extensions += f"subjectAltName={alternative_names}\n" if alternative_names else ""
        (self.layout.certificates / f"{name}.ext").write_text(extensions)
        self._key(name)
        self._openssl("req", "-new", "-key", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        signer = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", DAYS, "-extfile", f"{name}.ext")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *signer)

    def _key(self, name: str) -> None:
        self._openssl("ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", f"{name}.key")

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(
            ["openssl", *arguments], cwd=self.layout.certificates, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ClusterError(f"openssl {' '.join(arguments)}: {done.stderr}")

    def _kubeconfig(self, user: str) -> None:
        folder = self.layout.certificates
        file = self.layout.kubeconfig(user)
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"""\
apiVersion: v1
kind: Config
current-context: roost
contexts: [{{name: roost, context: {{cluster: roost, user: {user}}}}}]
clusters: [{{name: roost, cluster: {{server: "{self.layout.api_url}", certificate-authority: {folder}/ca.crt}}}}]
users: [{{name: {user}, user: {{client-certificate: {folder}/{user}.crt, client-key: {folder}/{user}.key}}}}]
""")
        file.chmod(0o600)
