//! Which kernels there are to boot, and the packages that they come from.

/// A package as it was when this table was written: a run with it is the same everywhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    pub(super) package: &'static str,
    pub(super) version: &'static str,
    /// Of the .deb file, as hexadecimal digits.
    pub(super) sha256: &'static str,
}

/// A stock Debian kernel of the cloud flavour: the one with the fewest drivers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    /// What `--kernel` calls it.
    pub(super) series: &'static str,
    /// Why it is in the matrix.
    pub(super) why: &'static str,
    /// The image, and where Debian has split it, its modules; the first names the release.
    pub(super) pins: &'static [Pin],
    /// The lowest upstream version that may stand in for it, and the first one that may not.
    pub(super) range: [Upstream; 2],
}

/// An upstream version, `6.12.117`.
pub(super) type Upstream = [u32; 3];

/// What `cargo xtask vm` boots when nothing is chosen.
pub(super) const MATRIX: [Kernel; 4] = [
    Kernel {
        series: "6.1",
        why: "Debian 12; the oldest that is supported",
        pins: &[Pin {
            package: "linux-image-6.1.0-56-cloud-amd64",
            version: "6.1.192-2",
            sha256: "e7d02b943971edcb8790e256c02cfab3bca6c3d37c1bf25392a57c71300615ee",
        }],
        range: [[6, 1, 191], [6, 2, 0]],
    },
    Kernel {
        series: "6.12.107",
        why: "lets one socket have kTLS and sockmap, which is unsafe and must not be used",
        pins: &[Pin {
            package: "linux-image-6.12.107+deb12-cloud-amd64",
            version: "6.12.107-1~deb12u1",
            sha256: "1d7627f454e202a1bfee7e5e9b74de48a3d097fc2c339d33ff9b58ab285bf4e4",
        }],
        range: [[6, 12, 95], [6, 12, 111]],
    },
    Kernel {
        series: "6.12.117",
        why: "Debian 13; refuses kTLS and sockmap on one socket",
        pins: &[Pin {
            package: "linux-image-6.12.117+deb12-cloud-amd64",
            version: "6.12.117-1~deb12u1",
            sha256: "5195b288dec79e2981d6b84457f38b7ce7310a2d702930ec7d07209c7f78ce37",
        }],
        range: [[6, 12, 117], [6, 13, 0]],
    },
    Kernel {
        series: "7.2",
        why: "Debian's backports; the kernel can rekey",
        pins: &[
            Pin {
                package: "linux-binary-7.2.12+deb13-cloud-amd64",
                version: "7.2.12-1~bpo13+1",
                sha256: "aa6720823145e351d3c817c95fe58d89995a2bcba4978ad2418c36a1c272f795",
            },
            Pin {
                package: "linux-modules-7.2.12+deb13-cloud-amd64",
                version: "7.2.12-1~bpo13+1",
                sha256: "2f15b42b88ae56836b5fb3ac74c6cb795047891a5a25e5e69dedf8805b54017d",
            },
        ],
        range: [[7, 2, 11], [8, 0, 0]],
    },
];

/// The guest's shell and tools: one static program.
pub(super) const BUSYBOX: Pin = Pin {
    package: "busybox-static",
    version: "1:1.35.0-4+deb12u1+b1",
    sha256: "3d3fdbe91d4660c873e14b092c213fe81c1da6362daa236eb25d0171eb108744",
};
