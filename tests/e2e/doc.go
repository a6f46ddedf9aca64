// Package e2e holds the stories of the user, told on real libvirt hosts with real VMs: each test boots a guest on the lab,
// does what a person or an accident would do, and judges by what a watcher outside saw. Unit tests never boot a VM;
// these always do. They need root and the Debian packages of deploy/setup/install-deps.
package e2e
