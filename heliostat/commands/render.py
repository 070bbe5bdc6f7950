"""heliostat render: prints a profile's Kubernetes documents, for kubectl, GitOps or review."""

import argparse
import shlex

from heliostat.commands.terminal.live import add_profile


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument(
        "--kuberay",
        choices=["1.6", "1.7"],
        default="1.6",
        help="the operator's version; 1.6 works with both, with 1.7 spot groups are filled first (default: 1.6)",
    )
    parser.add_argument(
        "--pod-monitor",
        action="store_true",
        help="add a PodMonitor for Prometheus Operator, in the place of annotations of the pods",
    )
    parser.add_argument(
        "--rbac", action="store_true", help="print the permissions that users need instead: a Role and its binding"
    )
    parser.epilog = "example: heliostat render gpu --set groups.gpu.max=4 | kubectl apply --server-side -f -"


def run(args: argparse.Namespace) -> int:
    import sys

    from heliostat.cluster.documents.render import rendered, text
    from heliostat.cluster.profile import find

    profile = find(args.profile, args.set)
    options = [part for override in args.set for part in ("--set", override)]
    if args.rbac:
        from heliostat.cluster.documents.rbac import role

        options.append("--rbac")
        documents = role(profile)
    else:
        options += ["--kuberay", args.kuberay] if args.kuberay != "1.6" else []
        options += ["--pod-monitor"] if args.pod_monitor else []
        documents = rendered(profile, args.kuberay, args.pod_monitor)
    sys.stdout.write(text(documents, shlex.join(["heliostat", "render", args.profile, *options])))
    return 0
